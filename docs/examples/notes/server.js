// GET / tells the notes and counts the visit, POST / keeps its body as a note. No packages: Redis by a socket, PostgreSQL by psql.
'use strict';
const http = require('node:http');
const { spawn } = require('node:child_process');
const { Redis } = require('./redis.js');

const NOTE_BYTES = 64 * 1024;
const { env } = process;
const redis = new Redis(env.NEBULA_REDIS_HOST, env.NEBULA_REDIS_PORT, env.REDIS_PASSWORD);
const postgres = { ...env, PGHOST: env.NEBULA_POSTGRES_HOST, PGPORT: env.NEBULA_POSTGRES_PORT, PGCONNECT_TIMEOUT: '2' };

// Runs statements and resolves to what they print. Values go by the environment (\getenv), never into the text.
function sql(statements, values = {}) {
  return new Promise((resolve, reject) => {
    const options = ['--no-psqlrc', '--quiet', '--tuples-only', '--no-align', '--set=ON_ERROR_STOP=1'];
    const psql = spawn('psql', options, { env: { ...postgres, ...values } });
    const told = { stdout: '', stderr: '' };
    for (const stream of ['stdout', 'stderr']) {
      psql[stream].setEncoding('utf8').on('data', (text) => { told[stream] += text; });
    }
    psql.on('error', reject);
    psql.on('close', (code) => (code === 0 ? resolve(told.stdout.trim()) : reject(new Error(told.stderr.trim()))));
    psql.stdin.on('error', () => {});
    psql.stdin.end(statements);
  });
}

async function read(request) {
  let text = '';
  for await (const chunk of request.setEncoding('utf8')) {
    text += chunk;
    if (text.length > NOTE_BYTES) return null;
  }
  return text;
}

async function answer(request) {
  switch (`${request.method} ${request.url}`) {
    case 'GET /ready':
      await Promise.all([redis.command('PING'), sql('SELECT 1;')]);
      return [200, 'ready'];
    case 'GET /': {
      const notes = await sql("SELECT coalesce(json_agg(text ORDER BY id), '[]') FROM notes;");
      return [200, JSON.stringify({ visits: await redis.command('INCR', 'visits'), notes: JSON.parse(notes) })];
    }
    case 'POST /': {
      const text = await read(request);
      if (text === null) return [413, 'a note has at most 64 KiB'];
      return [201, await sql('\\getenv note NOTE\nINSERT INTO notes (text) VALUES (:\'note\') RETURNING id;', { NOTE: text })];
    }
    default:
      return [404, 'no such page'];
  }
}

const server = http.createServer((request, response) => {
  answer(request)
    .catch((error) => {
      console.error(error.message);
      return [503, 'try again'];
    })
    .then(([status, body]) => response.writeHead(status).end(`${body}\n`));
});
server.listen(Number(env.PORT), '127.0.0.1');
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

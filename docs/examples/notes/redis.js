// As much of Redis' protocol (RESP2) as a few plain commands need: one connection, made again when it is lost.
'use strict';
const net = require('node:net');

const SILENCE_MS = 2000;

class Redis {
  constructor(host, port, password) {
    Object.assign(this, { host, port, password, socket: null, waiting: [] });
  }

  // Resolves to a string, a number or null.
  async command(...words) {
    if (!this.socket) {
      this.connect();
      this.send(['AUTH', this.password]).catch(() => {});
    }
    return this.send(words);
  }

  connect() {
    const socket = net.connect(this.port, this.host);
    let unread = Buffer.alloc(0);
    const lost = (error) => {
      if (this.socket !== socket) return;
      this.socket = null;
      for (const { reject } of this.waiting.splice(0)) reject(error);
    };
    socket.setTimeout(SILENCE_MS, () => {
      if (this.waiting.length) socket.destroy(new Error('redis does not answer'));
    });
    socket.on('error', lost);
    socket.on('close', () => lost(new Error('the connection to redis was closed')));
    socket.on('data', (chunk) => {
      unread = Buffer.concat([unread, chunk]);
      for (let reply = parse(unread); reply; reply = parse(unread)) {
        unread = unread.subarray(reply.end);
        const { resolve, reject } = this.waiting.shift();
        if (reply.value instanceof Error) reject(reply.value);
        else resolve(reply.value);
      }
    });
    this.socket = socket;
  }

  send(words) {
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    this.socket.write(`*${words.length}\r\n${parts.join('')}`);
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }
}

// The first whole reply and where it ends; nothing while it is not all there.
function parse(bytes) {
  const line = bytes.indexOf('\r\n');
  if (line < 0) return null;
  const text = bytes.toString('utf8', 1, line);
  const end = line + 2;
  switch (String.fromCharCode(bytes[0])) {
    case '+': return { value: text, end };
    case '-': return { value: new Error(`redis: ${text}`), end };
    case ':': return { value: Number(text), end };
    case '$': {
      const length = Number(text);
      if (length < 0) return { value: null, end };
      if (bytes.length < end + length + 2) return null;
      return { value: bytes.toString('utf8', end, end + length), end: end + length + 2 };
    }
    default: return { value: new Error('redis: not a reply'), end: bytes.length };
  }
}

module.exports = { Redis };

// What Node's HTTP server understood: written down, one JSON object a line, and answered.
const fs = require("fs");
const http = require("http");

const note = (said) => {
  const text = JSON.stringify(said);
  fs.appendFileSync(process.env.RECORD, text + "\n");
  return text;
};

http
  .createServer((request, response) => {
    const said = { method: request.method, target: request.url, host: request.headers.host || "" };
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("error", () => note({ ...said, broken: "ended" }));
    request.on("end", () => {
      const text = note({ ...said, body: Buffer.concat(pieces).toString("latin1") });
      response.setHeader("Content-Type", "application/json");
      response.end(text);
    });
  })
  .listen(process.env.PORT, "127.0.0.1");

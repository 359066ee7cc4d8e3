// A plain node:http server around a module of the fetch contract: `node node-server.mjs MODULE PORT`.
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [module, port] = process.argv.slice(2);
const handler = (await import(pathToFileURL(module).href)).default;

createServer(async (incoming, outgoing) => {
  const response = await handler.fetch(new Request(`http://${incoming.headers.host}${incoming.url}`));
  const body = new Uint8Array(await response.arrayBuffer());
  outgoing.writeHead(response.status, { ...Object.fromEntries(response.headers), "content-length": body.length });
  outgoing.end(body);
}).listen(Number(port), "127.0.0.1");

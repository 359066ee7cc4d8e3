/** The two ends of a WebSocket, as on Workers. `Deno.upgradeWebSocket` works too, where no middleware touches its response. */
declare const WebSocketPair: new () => { 0: WebSocket; 1: WebSocket & { accept(): void } };

/** Opens a WebSocket that says every line again, in capitals. */
export function talk(request: Request, greeting: string): Response {
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
    return new Response("This path speaks WebSocket.\n", { status: 426, headers: { upgrade: "websocket" } });
  }
  const { 0: client, 1: server } = new WebSocketPair();
  server.onmessage = ({ data }) => server.send(typeof data === "string" ? data.toUpperCase() : data);
  server.onclose = ({ code }) => console.log(`closed with ${code}`);
  server.accept();
  server.send(`${greeting}!`);
  return new Response(null, { status: 101, webSocket: client } as ResponseInit);
}

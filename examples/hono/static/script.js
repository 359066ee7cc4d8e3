const lines = document.querySelector("#lines");
const show = (text) => lines.append(Object.assign(document.createElement("li"), { textContent: text }));

new EventSource("/clock").onmessage = ({ data }) => {
  document.querySelector("#clock").textContent = new Date(data).toLocaleTimeString();
};

const socket = new WebSocket(new URL("/talk", location.href.replace(/^http/, "ws")));
socket.onmessage = ({ data }) => show(data);
socket.onclose = () => show("(closed)");
document.querySelector("#talk").onsubmit = (event) => {
  event.preventDefault();
  socket.send(new FormData(event.target).get("line"));
  event.target.reset();
};

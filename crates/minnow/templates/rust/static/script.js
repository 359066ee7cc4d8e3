const counter = document.getElementById("counter");

counter?.addEventListener("click", () => {
  const output = counter.querySelector("output");
  output.textContent = Number(output.textContent) + 1;
});

const output = document.getElementById("health");

fetch("/api/health")
  .then((response) => response.json())
  .then((health) => { output.textContent = health.status; })
  .catch(() => { output.textContent = "unreachable"; });

// The page on which a person lets a program in. Text from elsewhere is set as text only.
"use strict";
const part = (id) => document.getElementById(id);
const say = (text) => { part("message").textContent = text; };
const show = (id) => { for (const form of document.forms) form.hidden = form.id !== id; };
const csrf = () => (document.cookie.match(/(?:^|; )__Host-wrenn_csrf=([0-9a-f]+)/)
  || document.cookie.match(/(?:^|; )wrenn_csrf=([0-9a-f]+)/) || [])[1] || "";
let code = new URLSearchParams(location.search).get("code") || "";

async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
    body: body && JSON.stringify(body),
    credentials: "same-origin",
  });
  const answer = response.status === 204 ? {} : await response.json();
  if (response.ok) return answer;
  const error = new Error(answer.error ? answer.error.message : "the server did not answer");
  error.status = response.status;
  throw error;
}

function on(id, act) {
  part(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    say("");
    try { await act(new FormData(event.target)); } catch (error) { say(error.message); }
  });
}

async function look() {
  if (!code) return show("code");
  const found = await call("POST", "/v1/auth/device/look", { user_code: code });
  part("client").textContent = found.client;
  part("shown").textContent = code;
  show("approve");
}

on("login", async (form) => {
  await call("POST", "/v1/auth/login", { email: form.get("email"), password: form.get("password") });
  await look();
});
on("code", async (form) => { code = form.get("code"); await look(); });
on("approve", async () => {
  await call("POST", "/v1/auth/device/approve", { user_code: code });
  show("");
  say("Done. You can go back to the program.");
});

(async () => {
  try {
    await call("GET", "/v1/me");
  } catch (error) {
    if (error.status === 401) return show("login");
    return say(error.message);
  }
  try { await look(); } catch (error) { show("code"); say(error.message); }
})();

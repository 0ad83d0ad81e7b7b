// What the pages do beside what they do without scripts: select all, and hold still while used.
(() => {
  "use strict";
  let isConnected = false;
  const state = document.getElementById("state");
  const picked = () => document.querySelectorAll('#content input[name="id"]:checked').length;

  function tell(text, kind) {
    if (!state) return;
    state.textContent = text;
    state.className = `live ${kind}`;
    state.hidden = false;
  }

  // The stream may well be there while the store is not.
  function tellLive() {
    const isAway = document.querySelector("#content [data-away]");
    tell(isAway ? "store away" : "live", isAway ? "bad" : "good");
  }

  function count() {
    const boxes = document.querySelectorAll('#content input[name="id"]');
    const all = document.querySelector("#content [data-all]");
    const told = document.querySelector("#content [data-selected]");
    const chosen = picked();
    if (all) {
      all.hidden = false;
      all.checked = chosen > 0 && chosen === boxes.length;
      all.indeterminate = chosen > 0 && chosen < boxes.length;
    }
    if (told) told.textContent = chosen ? `${chosen} selected:` : "With the selected:";
    for (const button of document.querySelectorAll("#content .bulk button")) {
      button.disabled = chosen === 0;
    }
  }

  // A page in use is not renewed under the hand of its user.
  function isInUse() {
    const content = document.getElementById("content");
    const focused = document.activeElement;
    return (
      picked() > 0 ||
      (content.contains(focused) && focused.matches("input, textarea, select, pre")) ||
      String(document.getSelection()).length > 0
    );
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) {
      for (const box of document.querySelectorAll('#content input[name="id"]')) {
        box.checked = event.target.checked;
      }
    }
    count();
  });
  document.addEventListener("htmx:before:request", (event) => {
    const isRenewal = event.detail.ctx.sourceElement.id === "content";
    if (isRenewal && isInUse()) event.preventDefault();
  });

  // What is no page of ours, such as that of a proxy, does not take the place of one.
  document.addEventListener("htmx:before:swap", (event) => {
    if (!event.detail.ctx.text?.includes('id="content"')) event.preventDefault();
  });
  document.addEventListener("htmx:after:swap", () => {
    count();
    if (isConnected) tellLive();
  });

  document.addEventListener("htmx:sse:after:connection", () => {
    isConnected = true;
    tellLive();
  });
  document.addEventListener("htmx:sse:error", () => {
    isConnected = false;
    tell("connection lost", "bad");
  });
  document.addEventListener("htmx:response:error", (event) => {
    const status = event.detail.ctx.response.status;
    if (status === 401 || status === 403) tell("signed out", "bad");
  });
  count();
})();

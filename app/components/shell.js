// Three things that Streamlit has no widget for, installed once on the document: links within the app that keep the
// session, tooltips on anything with data-tip, and keys for links that name one. Without this file every link still works.

const TYPING = "input, textarea, select, [contenteditable='true'], [role='combobox'], [role='grid']";

function follow(anchor) {
  const target = new URL(anchor.getAttribute("href"), document.baseURI);
  if (target.origin !== location.origin) return false;
  history.pushState({}, "", target);
  // Streamlit answers a history change by running the page that the address names, in the same session.
  dispatchEvent(new PopStateEvent("popstate"));
  document.querySelector("[data-testid='stMain']")?.scrollTo({ top: 0 });
  return true;
}

function onClick(event) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const anchor = event.target.closest?.("[data-testid='stHtml'] a[href]");
  if (anchor && !anchor.target && follow(anchor)) event.preventDefault();
}

function onKey(event) {
  if (event.key === "Escape") hideTip();
  if (event.metaKey || event.ctrlKey || event.altKey || event.target.closest?.(TYPING)) return;
  const anchor = document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`);
  if (anchor && follow(anchor)) event.preventDefault();
}

function tipBox() {
  let box = document.getElementById("sr-tip");
  if (!box) {
    box = document.createElement("div");
    box.id = "sr-tip";
    box.setAttribute("role", "tooltip");
    (document.querySelector("[data-testid='stApp']") ?? document.body).append(box);
  }
  return box;
}

let tipped = null;

function showTip(event) {
  const target = event.target.closest?.("[data-tip]");
  if (target === tipped) return;
  hideTip();
  if (!target) return;
  const box = tipBox();
  const row = target.closest("[data-row-tip]");
  box.textContent = target.dataset.tip + (row && row !== target ? `\n${row.dataset.rowTip}` : "");
  box.hidden = false;
  const at = target.getClientRects()[0] ?? target.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const above = at.top - height - 6;
  box.style.left = `${Math.max(6, Math.min(at.left, innerWidth - width - 6))}px`;
  box.style.top = `${above >= 6 ? above : at.bottom + 6}px`;
  target.setAttribute("aria-describedby", "sr-tip");
  tipped = target;
}

function hideTip() {
  tipped?.removeAttribute("aria-describedby");
  tipped = null;
  const box = document.getElementById("sr-tip");
  if (box) box.hidden = true;
}

export default function () {
  if (window.__sparseRepShell) return;
  window.__sparseRepShell = true;
  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey);
  document.addEventListener("mouseover", showTip);
  document.addEventListener("focusin", showTip);
  document.addEventListener("focusout", hideTip);
  document.addEventListener("scroll", hideTip, true);
}

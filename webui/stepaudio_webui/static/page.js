// <stepaudio-head>: the head of the page: which model, where, and light or dark.

import { modelStatus } from "./status.js";

const STATES = { loading: "loading", ready: "ready", failed: "not available" };

class PageHead extends HTMLElement {
  connectedCallback() {
    if (this.childElementCount) return;
    this.innerHTML = `
      <header>
        <h1>step<em>audio</em></h1>
        <p class="model" role="status"><i></i><span></span></p>
        <button type="button" class="theme" aria-label="Light or dark" title="Light or dark">◐</button>
      </header>`;
    this.querySelector(".theme").onclick = turnTheme;
    showTheme(); // Gradio has shown that of the system before
    modelStatus.addEventListener("change", () => this.show(modelStatus.value));
    if (modelStatus.value) this.show(modelStatus.value);
  }

  show({ state, model, place, problem }) {
    this.dataset.state = state;
    const name = model ? `${model} · ` : "";
    this.querySelector(".model span").textContent = `${name}${place} · ${STATES[state]}`;
    this.querySelector(".model").title = problem;
  }
}

function turnTheme() {
  const isDark = document.body.classList.toggle("dark");
  localStorage.setItem("stepaudio-theme", isDark ? "dark" : "light");
}

function showTheme() {
  const chosen = localStorage.getItem("stepaudio-theme");
  if (chosen) document.body.classList.toggle("dark", chosen === "dark");
}

customElements.define("stepaudio-head", PageHead);

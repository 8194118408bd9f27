// The iframe's pages, made smoother: posts without a flash, and the host page told how high the page is.
// Only an enhancement: every form works by a plain post, and nothing here is stored or needs a cookie. The policy
// of the page allows no sink of strings, so that an answer is parsed by the request itself and its nodes are moved.
(() => {
  "use strict";

  const LONGEST_WAIT = 20000; // ms
  const VERSION = 1;
  const framed = window.parent !== window;
  const content = document.getElementById("content");
  const status = document.getElementById("status");
  const origins = (document.documentElement.dataset.origins || "").split(" ").filter(Boolean);
  const main = () => document.querySelector("main");

  // Telling the host ------------------------------------------------------------------------------------------------

  let host = ""; // the origin that said hello, once it has proved to be on the campaign's list
  let told = 0; // px

  const tell = (event, more) => {
    if (!host) return;
    const { campaign, step } = main().dataset;
    window.parent.postMessage({ type: "openfield:" + event, version: VERSION, campaign, step, ...more }, host);
  };

  const height = () => Math.ceil(content.getBoundingClientRect().height);

  const tellHeight = () => {
    const now = height();
    if (Math.abs(now - told) < 2) return;
    told = now;
    tell("height", { height: now });
  };

  window.addEventListener("message", ({ source, origin, data }) => {
    if (!framed || source !== window.parent || !origins.includes(origin)) return;
    if (!data || data.type !== "openfield:hello" || data.version !== VERSION) return;
    const event = host === origin ? "height" : "ready"; // ready once, however often it is greeted
    host = origin;
    told = height();
    tell(event, { height: told, title: main().querySelector("h1").textContent });
  });

  new ResizeObserver(tellHeight).observe(content);

  // Waiting ---------------------------------------------------------------------------------------------------------

  // A button that waits keeps the focus, so that nobody loses their place: it is told to be disabled, and does nothing.
  const wait = (form, button) => {
    form.dataset.waiting = "";
    main().setAttribute("aria-busy", "true");
    if (!button) return;
    button.dataset.label = button.textContent;
    button.setAttribute("aria-disabled", "true");
    button.setAttribute("aria-busy", "true");
    status.textContent = button.textContent = button.dataset.busy || button.textContent;
  };

  const stopWaiting = () => {
    main().removeAttribute("aria-busy");
    status.textContent = "";
    for (const form of document.querySelectorAll("form[data-waiting]")) delete form.dataset.waiting;
    for (const button of document.querySelectorAll("button[data-label]")) {
      button.textContent = button.dataset.label;
      button.removeAttribute("aria-disabled");
      button.removeAttribute("aria-busy");
      delete button.dataset.label;
    }
  };

  // Sending ---------------------------------------------------------------------------------------------------------

  const fieldsOf = (form, button) => {
    const fields = new URLSearchParams(new FormData(form));
    if (button && button.name) fields.append(button.name, button.value);
    return fields;
  };

  // It did not work, and the form stays, so that nothing that was typed is lost: said at the button.
  const fail = (form, button, ...sentences) => {
    stopWaiting();
    const message = document.createElement("div");
    message.className = "message wrong failure";
    message.setAttribute("role", "alert");
    for (const sentence of sentences) {
      const paragraph = document.createElement("p");
      paragraph.textContent = sentence;
      message.append(paragraph);
    }
    (button || form.lastElementChild).after(message);
    tell("error");
  };

  // What such an answer says: that the server could not do it, or that it was too much. Nothing when it is a page.
  const failure = (answered, page) => {
    if (!page || !page.querySelector("main[data-step]")) return [main().dataset.unreachable];
    const failed = answered >= 500 || answered === 413;
    return failed ? [...page.querySelectorAll("#notice, #notice + .text")].map((each) => each.textContent) : [];
  };

  // What an answer means to the host: the step was taken, the participant has to look again, or it failed.
  const outcome = (form, answered, moved) => {
    if (answered < 400) return moved && form.dataset.event;
    return answered < 500 && main().querySelector(".message") ? "invalid" : "error";
  };

  const show = (page) => {
    const { lang, dir } = page.documentElement;
    Object.assign(document.documentElement, { lang, dir });
    document.title = page.title;
    const target = page.querySelector("main .message") || page.querySelector("main h1");
    target.removeAttribute("autofocus"); // the browser's own way, which would not spare the host
    target.tabIndex = -1;
    main().replaceWith(document.adoptNode(page.querySelector("main")));
    stopWaiting();
    enhance();
    // In a frame, the host decides whether its page moves; only the frame's own scroll is ours.
    target.focus({ preventScroll: framed });
    if (framed) window.scrollTo(0, 0);
  };

  const send = (form, button) => {
    const before = main().dataset.step;
    const request = new XMLHttpRequest();
    request.open("POST", form.getAttribute("action") || "");
    request.responseType = "document";
    request.timeout = LONGEST_WAIT;
    request.onerror = request.ontimeout = () => fail(form, button, main().dataset.unreachable);
    request.onload = () => {
      const page = request.response;
      const sentences = failure(request.status, page);
      if (sentences.length) return fail(form, button, ...sentences);
      show(page);
      told = height();
      tell("height", { height: told, fresh: true });
      const moved = main().dataset.step !== before;
      if (moved) tell("step");
      const event = outcome(form, request.status, moved);
      if (event) tell(event);
    };
    request.send(fieldsOf(form, button));
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.getAttribute("method").toLowerCase() !== "post" || !main().contains(form)) return;
    event.preventDefault();
    if (document.querySelector("form[data-waiting]")) return;
    const button = event.submitter || form.querySelector("[type=submit]");
    for (const old of document.querySelectorAll(".failure")) old.remove();
    send(form, button);
    form.querySelectorAll(".reveal[aria-pressed=true]").forEach(toggle);
    wait(form, button);
  });

  // Come back to by the Back button, as it was left: still waiting for an answer that will not arrive.
  window.addEventListener("pageshow", (event) => event.persisted && stopWaiting());

  // Small comforts --------------------------------------------------------------------------------------------------

  const toggle = (button) => {
    const shown = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!shown));
    document.getElementById(button.getAttribute("aria-controls")).type = shown ? "password" : "text";
  };

  const enhance = () => {
    // The server writes times in UTC: only the browser knows where its reader is.
    const local = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "long", timeStyle: "short" });
    for (const time of document.querySelectorAll("time")) time.textContent = local.format(new Date(time.dateTime));
    for (const button of document.querySelectorAll(".reveal")) button.hidden = false;
  };

  document.addEventListener("click", (event) => {
    const reveal = event.target.closest(".reveal");
    if (reveal) toggle(reveal);
    // A link to a field puts the reader in it, without another stop for the Back button.
    const link = event.target.closest(".message a[href^='#']");
    const field = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!field) return;
    event.preventDefault();
    field.focus();
  });

  enhance();
})();

// The loader that the snippet names. It gives each of our iframes on the page its height and a title, and hands its
// events on to the page. Without it the iframes work, and scroll. It sets nothing global and never navigates the page.
(() => {
  const ours = new URL(document.currentScript.src).origin;
  const once = Symbol.for("openfield " + ours);
  if (document[once]) return; // several snippets on one page bring the loader as often
  document[once] = 1;

  const TALLEST = 10000; // px
  const TRIES = 8;
  const greetings = new WeakMap(); // iframe → the timer of its next greeting

  const frames = () => [...document.querySelectorAll("iframe")].filter((frame) => frame.src.startsWith(ours + "/c/"));

  // The frame tells its host nothing before it has been greeted: again and again, longer each time, until it answers.
  // A frame that has not loaded yet is still about:blank, of the page's own origin; "load" comes when it is not.
  const greet = (frame, tried = 0) => {
    clearTimeout(greetings.get(frame));
    if (tried > TRIES || !frame.isConnected) return;
    if (frame.contentDocument?.URL !== "about:blank")
      frame.contentWindow.postMessage({ type: "openfield:hello", version: 1 }, ours);
    greetings.set(frame, setTimeout(greet, 100 << tried, frame, tried + 1));
  };

  const meet = () => {
    for (const frame of frames()) {
      if (greetings.has(frame)) continue;
      frame.addEventListener("load", () => greet(frame));
      greet(frame);
    }
  };

  addEventListener("message", ({ source, origin, data }) => {
    if (origin !== ours || data?.version !== 1) return;
    const frame = frames().find((each) => each.contentWindow === source);
    if (!frame) return;
    const { type, version, height, title, fresh, ...detail } = data;
    if (!/^openfield:(ready|height|step|login|signup|invalid|submit|error)$/.test(type)) return;
    clearTimeout(greetings.get(frame));
    if (height > 0) frame.style.height = Math.min(height, TALLEST) + "px";
    if (title && !frame.title) frame.title = title;
    if (fresh && frame.getBoundingClientRect().top < 0) frame.scrollIntoView(); // another page in it, seen from its top
    frame.dispatchEvent(new CustomEvent(type, { bubbles: true, detail }));
  });

  new MutationObserver(meet).observe(document, { subtree: true, childList: true, attributeFilter: ["src"] });
  meet();
})();

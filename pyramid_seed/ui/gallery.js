const calm = matchMedia('(prefers-reduced-motion: reduce)');
const cardOf = event => event.target.closest('[data-clip]');
element.addEventListener('click', event => {
  const card = cardOf(event);
  if (card) trigger('select', { value: card.dataset.clip });
});
const play = video => { if (!calm.matches) video.play(); };
for (const [name, act] of [['mouseover', play], ['focusin', play], ['mouseout', video => video.pause()],
                           ['focusout', video => video.pause()]])
  element.addEventListener(name, event => {
    const video = cardOf(event)?.querySelector('video');
    if (video) act(video);
  });

// The cards are drawn anew when a clip is chosen or made: the focus stays on its clip.
let focused;
element.addEventListener('focusin', event => { focused = cardOf(event)?.dataset.clip; });
document.addEventListener('focusin', event => { if (!element.contains(event.target)) focused = undefined; });
new MutationObserver(() => {
  if (focused === undefined || document.activeElement !== document.body) return;
  element.querySelector(`[data-clip="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}).observe(element, { childList: true, subtree: true });

element.addEventListener('click', event => {
  const card = event.target.closest('[data-clip]');
  if (card) trigger('select', { value: card.dataset.clip });
});
for (const [name, act] of [['mouseover', video => video.play()], ['mouseout', video => video.pause()]])
  element.addEventListener(name, event => {
    const video = event.target.closest('[data-clip]')?.querySelector('video');
    if (video) act(video);
  });

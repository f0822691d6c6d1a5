const calm = matchMedia('(prefers-reduced-motion: reduce)');
element.addEventListener('loadeddata', event => {
  if (event.target.id === 'clip' && !calm.matches) event.target.play();
}, true);

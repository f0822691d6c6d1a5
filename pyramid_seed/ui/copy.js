element.addEventListener('click', async event => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = 'copied';
  button.ariaLabel = `copied the ${button.closest('dd').previousElementSibling.textContent}`;
});

// Runs before the first paint, so that a chosen theme does not flash; that is why this one setting is in localStorage.
{
  const chosen = localStorage.getItem('theme');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
}

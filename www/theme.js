// Runs before the first paint, so that a chosen theme does not flash; that is why this one setting is in localStorage.
{
  let chosen;
  try {
    chosen = localStorage.getItem('theme');
  } catch {
    // Storage is forbidden: the system's theme it is.
  }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
}

// SPDX-License-Identifier: GPL-2.0-or-later
// Keeps the counters of an open page up to date; without it they are those of when it was loaded.
"use strict";
const counters = document.querySelectorAll("[data-count]");
async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/counts", { redirect: "error" });
    if (!answer.ok) return;
    const counts = await answer.json();
    for (const one of counters) one.textContent = counts[one.dataset.count];
  } catch {
    // The next look may have an answer.
  }
}
if (counters.length) setInterval(look, 30000);

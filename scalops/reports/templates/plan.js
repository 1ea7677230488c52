// The views of a plan: a tab for each stage, and one each for time, workers and the rules' trace.

(() => {
  const analysis = DATA.analysis;
  const views = Object.entries(DATA.stages).map(([name, root]) => ({
    name, title: name[0].toUpperCase() + name.slice(1), build: () => planTree(name, root),
  }));
  const profile = analysis && analysis.profile;
  if (profile) {
    views.push({ name: "time", title: "Time", build: () => iterationsView(profile) });
  }
  const workers = Object.values(DATA.stages).map((root) => root.workers).find(Boolean);
  if (workers) views.push({ name: "workers", title: "Workers", build: () => workersView(workers) });
  if (DATA.trace) views.push({ name: "trace", title: "Rules", build: () => traceView(DATA.trace) });
  const first = DATA.stages.optimized && "optimized";  // as explain itself
  tabs(views, document.getElementById("views"), first);
})();

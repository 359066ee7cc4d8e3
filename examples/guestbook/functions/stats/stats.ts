// How often the guestbook was looked at, and who writes most.

import type { StatsEnv } from "../../minnow.d.ts";

export default {
  async fetch(_request: Request, env: StatsEnv): Promise<Response> {
    const [visits, entries, writers] = await Promise.all([
      env.COUNTERS.increment("visits"),
      env.COUNTERS.get("entries"),
      env.MAIN.prepare("SELECT name, count(*) AS entries FROM entry GROUP BY name ORDER BY entries DESC, name LIMIT 3")
        .all<{ name: string; entries: number }>(),
    ]);
    return Response.json({ visits: Number(visits), entries: Number(entries ?? 0), writers: writers.results });
  },
};

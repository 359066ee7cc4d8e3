//! What a module handles, and whether that is all that its function is run for.

use serde::Deserialize;

use crate::FunctionSpec;

/// The handlers of a module's default export; `Deno.serve` gives `fetch` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Handlers {
    pub(crate) fetch: bool,
    pub(crate) queue: bool,
    pub(crate) scheduled: bool,
}

impl Handlers {
    /// What the bootstrap says when it has loaded a module: `{"handlers":["fetch"]}`. A name that this node does not know, which a
    /// module cannot bring about, is an error.
    pub(super) fn read(answer: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Loaded {
            handlers: Vec<Handler>,
        }
        #[derive(PartialEq, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Handler {
            Fetch,
            Queue,
            Scheduled,
        }
        let Loaded { handlers } = serde_json::from_slice(answer)?;
        let has = |handler| handlers.contains(&handler);
        Ok(Self { fetch: has(Handler::Fetch), queue: has(Handler::Queue), scheduled: has(Handler::Scheduled) })
    }

    /// What the function is run for by its manifest and the module has no handler for: a line for each, with what to do.
    pub(super) fn lacks(self, spec: &FunctionSpec) -> Vec<String> {
        let (topics, schedules) = (!spec.subscriptions.is_empty(), !spec.schedules.is_empty());
        self.lacks_for(spec.has_routes, topics, schedules, spec.function.as_str())
    }

    fn lacks_for(self, routes: bool, topics: bool, schedules: bool, function: &str) -> Vec<String> {
        let Self { fetch, queue, scheduled } = self;
        let lacks = [
            (routes && !fetch, "routes", "no `fetch`", "fetch(request, env, ctx)"),
            (topics && !queue && !fetch, "topics", "neither `queue` nor `fetch`", "async queue(batch, env, ctx)"),
            (
                schedules && !scheduled && !fetch,
                "schedules",
                "neither `scheduled` nor `fetch`",
                "async scheduled(event, env, ctx)",
            ),
        ];
        let lacks = lacks.into_iter().filter(|(lacks, ..)| *lacks);
        let told = lacks.map(|(_, key, has, handler)| {
            format!(
                "it has `{key}` in minnow.toml, and its default export has {has}; write `export default {{ {handler} {{ … }} }}`, \
                 or take `{key}` out of [functions.{function}]"
            )
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_lacks_is_told_for_each_thing_that_starts_its_function() {
        let handlers = |names: &str| Handlers {
            fetch: names.contains("fetch"),
            queue: names.contains("queue"),
            scheduled: names.contains("scheduled"),
        };
        for (names, triggers, lacks) in [
            ("fetch", "routes topics schedules", &[][..]),
            ("queue scheduled", "topics schedules", &[]),
            ("queue", "", &[]),
            ("queue", "routes", &["routes"]),
            ("queue", "topics schedules", &["schedules"]),
            ("scheduled", "topics schedules", &["topics"]),
            ("scheduled", "routes topics", &["routes", "topics"]),
        ] {
            let has = |trigger| triggers.contains(trigger);
            let told = handlers(names).lacks_for(has("routes"), has("topics"), has("schedules"), "web");
            assert_eq!(told.len(), lacks.len(), "{names}, {triggers}: {told:?}");
            for (told, key) in told.iter().zip(lacks) {
                assert!(told.contains(&format!("take `{key}` out of [functions.web]")), "{told}");
            }
        }
        let told = handlers("queue").lacks_for(true, false, false, "web");
        assert_eq!(
            told,
            [
                "it has `routes` in minnow.toml, and its default export has no `fetch`; write `export default { fetch(request, env, ctx) \
              { … } }`, or take `routes` out of [functions.web]"
            ]
        );
    }

    #[test]
    fn a_process_names_its_handlers() {
        let read = |text: &str| Handlers::read(text.as_bytes()).ok();
        assert_eq!(read(r#"{"handlers":["fetch"]}"#), Some(Handlers { fetch: true, ..Handlers::default() }));
        let events = Handlers { queue: true, scheduled: true, fetch: false };
        assert_eq!(read(r#"{"handlers":["queue","scheduled"]}"#), Some(events));
        for text in ["{}", "", r#"{"handlers":["email"]}"#, r#"{"handlers":{}}"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}

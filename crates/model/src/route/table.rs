//! The routing table: a tree over path segments, flattened into three arrays.
//!
//! Why not one of the routing crates: `matchit` (0.9) refuses `/{id}` beside `/{*rest}`, knows no methods, allocates when it
//! has to go back, and takes several times the memory; a node holds one table for each live version, thousands of them idle.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use super::{RoutePattern, Segment};

/// What a request's method and path lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Function {
        /// The index that was given with the route.
        index: usize,
        /// The bytes of the path before the wildcard, without a trailing slash (CGI's SCRIPT_NAME); the whole path
        /// when the route has no wildcard.
        script_len: usize,
        /// Whether the route ends in a wildcard, which may have taken nothing.
        by_wildcard: bool,
    },
    /// The path has routes, but none for this method.
    MethodNotAllowed {
        /// The methods that work, sorted, for the `allow` header.
        allow: Vec<String>,
    },
    None,
}

/// Two routes that match the same requests, so that neither is more specific.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routes `{}` and `{}` match the same requests", first.0, second.0)]
pub struct RouteClash {
    /// The route that came first, and its index.
    pub first: (RoutePattern, usize),
    /// The route that clashes with it, and its index.
    pub second: (RoutePattern, usize),
}

/// Finds the function of a request: of all routes that match its method and path, the most specific one. Segment by
/// segment from the left a literal is more specific than `{name}` and that than `{*rest}`; of two routes with the same
/// path the one with a method.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Router {
    /// The root first; the children of a node stand side by side, literals sorted by their text.
    nodes: Box<[Node]>,
    /// What the routes lead to; a node's targets stand side by side, sorted by method.
    targets: Box<[Target]>,
    /// All literals and methods, one after the other.
    text: Box<str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    /// The literal that leads here; empty and unused for the root and for `{name}`.
    literal: Span,
    /// Children behind a literal, in `nodes`.
    literals: Span,
    /// The child behind a `{name}`; the root's index, 0, when there is none.
    name: u32,
    /// Routes that end here, in `targets`.
    ends: Span,
    /// Routes that take the rest from here, in `targets`.
    rests: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Target {
    /// The method's text; empty for every method.
    method: Span,
    index: u32,
}

/// The tree while it is built.
#[derive(Default)]
struct Branch {
    literals: BTreeMap<String, Branch>,
    name: Option<Box<Branch>>,
    ends: Leaf,
    rests: Leaf,
}

/// The routes of one path by method, empty for every method. Sorted: a path may have many.
type Leaf = BTreeMap<String, (RoutePattern, usize)>;

impl Router {
    /// Builds the table. Each route comes with the index that [`find`](Self::find) gives back.
    pub fn new(routes: impl IntoIterator<Item = (RoutePattern, usize)>) -> Result<Self, Vec<RouteClash>> {
        let mut root = Branch::default();
        let mut clashes = Vec::new();
        for (pattern, index) in routes {
            match root.leaf(&pattern).entry(pattern.method.clone().unwrap_or_default()) {
                Entry::Occupied(first) => {
                    clashes.push(RouteClash { first: first.get().clone(), second: (pattern, index) });
                }
                Entry::Vacant(place) => {
                    place.insert((pattern, index));
                }
            }
        }
        if !clashes.is_empty() {
            return Err(clashes);
        }
        Ok(Flattened::of(root))
    }

    /// Looks up a request by its method and its path, as it was sent and without the query. Allocates only for
    /// [`Found::MethodNotAllowed`]. A HEAD request also matches a GET route.
    pub fn find(&self, method: &str, path: &str) -> Found {
        let (Some(root), Some(rest)) = (self.nodes.first(), path.strip_prefix('/')) else {
            return Found::None;
        };
        let mut search = Search { router: self, method, path_len: path.len(), path_exists: false };
        match search.walk(root, Some(rest)) {
            Some(Hit { index, script_len, by_wildcard }) => {
                Found::Function { index: index as usize, script_len, by_wildcard }
            }
            None if search.path_exists => {
                let mut allow = Vec::new();
                self.collect_methods(root, Some(rest), &mut allow);
                allow.sort();
                allow.dedup();
                Found::MethodNotAllowed { allow }
            }
            None => Found::None,
        }
    }

    /// The bytes that this table holds on the heap.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.targets) + self.text.len()
    }

    fn text(&self, span: Span) -> &str {
        self.text.get(span.start as usize..(span.start + span.len) as usize).unwrap_or_default()
    }

    fn targets(&self, span: Span) -> &[Target] {
        self.targets.get(span.start as usize..(span.start + span.len) as usize).unwrap_or_default()
    }

    fn literal_child(&self, node: &Node, text: &str) -> Option<&Node> {
        let span = node.literals;
        let children = self.nodes.get(span.start as usize..(span.start + span.len) as usize)?;
        let at = children.binary_search_by(|child| self.text(child.literal).cmp(text)).ok()?;
        children.get(at)
    }

    fn name_child(&self, node: &Node) -> Option<&Node> {
        (node.name != 0).then(|| self.nodes.get(node.name as usize)).flatten()
    }

    /// Adds the methods of every route that matches the path. Only called when each of these has a method.
    fn collect_methods(&self, node: &Node, rest: Option<&str>, allow: &mut Vec<String>) {
        let mut add = |span| {
            for target in self.targets(span) {
                let method = self.text(target.method);
                allow.push(method.into());
                if method == "GET" {
                    allow.push("HEAD".into());
                }
            }
        };
        add(node.rests);
        let Some(rest) = rest else {
            add(node.ends);
            return;
        };
        let (segment, after) = split(rest);
        if let Some(child) = self.literal_child(node, segment) {
            self.collect_methods(child, after, allow);
        }
        if let Some(child) = self.name_child(node).filter(|_| !segment.is_empty()) {
            self.collect_methods(child, after, allow);
        }
    }
}

/// The first segment of `rest`, and what follows its `/`; `None` at the path's end.
fn split(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once('/') {
        Some((segment, after)) => (segment, Some(after)),
        None => (rest, None),
    }
}

struct Search<'a> {
    router: &'a Router,
    method: &'a str,
    path_len: usize,
    /// A route matched the path but not the method.
    path_exists: bool,
}

/// What a search found; as in [`Found::Function`].
struct Hit {
    index: u32,
    script_len: usize,
    by_wildcard: bool,
}

impl Search<'_> {
    /// The most specific route below `node` that matches what is left of the path. The depth is at most
    /// [`super::MAX_SEGMENTS`]; it visits a node once at most, since only one way leads to each.
    fn walk(&mut self, node: &Node, rest: Option<&str>) -> Option<Hit> {
        let Some(rest) = rest else {
            let script_len = self.path_len;
            if let Some(index) = self.pick(node.ends) {
                return Some(Hit { index, script_len, by_wildcard: false });
            }
            return Some(Hit { index: self.pick(node.rests)?, script_len, by_wildcard: true });
        };
        let (segment, after) = split(rest);
        if let Some(child) = self.router.literal_child(node, segment)
            && let Some(found) = self.walk(child, after)
        {
            return Some(found);
        }
        if !segment.is_empty()
            && let Some(child) = self.router.name_child(node)
            && let Some(found) = self.walk(child, after)
        {
            return Some(found);
        }
        // What stands before the rest, without the `/` between them.
        Some(Hit { index: self.pick(node.rests)?, script_len: self.path_len - rest.len() - 1, by_wildcard: true })
    }

    fn pick(&mut self, span: Span) -> Option<u32> {
        let targets = self.router.targets(span);
        self.path_exists |= !targets.is_empty();
        let with = |method: &str| {
            let at = targets.binary_search_by(|target| self.router.text(target.method).cmp(method)).ok()?;
            targets.get(at)
        };
        let found = with(self.method).or_else(|| if self.method == "HEAD" { with("GET") } else { None });
        // The empty method stands for every one; a request's own method is never empty.
        found.or_else(|| with("")).map(|target| target.index)
    }
}

impl Branch {
    /// The place of a route in the tree.
    fn leaf(&mut self, pattern: &RoutePattern) -> &mut Leaf {
        let mut branch = self;
        for segment in pattern.segments() {
            branch = match segment {
                Segment::Literal(text) => branch.literals.entry(text.to_owned()).or_default(),
                Segment::Name(_) => branch.name.get_or_insert_default(),
                Segment::Rest(_) => return &mut branch.rests,
            };
        }
        &mut branch.ends
    }
}

/// Writes the tree into arrays, level by level, so that the children of a node stand side by side.
#[derive(Default)]
struct Flattened {
    nodes: Vec<Node>,
    targets: Vec<Target>,
    text: String,
}

impl Flattened {
    fn of(root: Branch) -> Router {
        let mut flat = Self::default();
        flat.push_node("");
        let mut level = vec![(0, root)];
        while !level.is_empty() {
            let mut next = Vec::new();
            for (at, branch) in level {
                let ends = flat.push_targets(branch.ends);
                let rests = flat.push_targets(branch.rests);
                let start = flat.nodes.len();
                for (text, child) in branch.literals {
                    next.push((flat.push_node(&text), child));
                }
                let literals = span(start, flat.nodes.len());
                let name = match branch.name {
                    Some(child) => {
                        let at = flat.push_node("");
                        next.push((at, *child));
                        at as u32
                    }
                    None => 0,
                };
                if let Some(node) = flat.nodes.get_mut(at) {
                    *node = Node { literal: node.literal, literals, name, ends, rests };
                }
            }
            level = next;
        }
        Router {
            nodes: flat.nodes.into_boxed_slice(),
            targets: flat.targets.into_boxed_slice(),
            text: flat.text.into_boxed_str(),
        }
    }

    fn push_text(&mut self, text: &str) -> Span {
        let start = self.text.len();
        self.text.push_str(text);
        span(start, self.text.len())
    }

    fn push_node(&mut self, literal: &str) -> usize {
        let none = Span { start: 0, len: 0 };
        let literal = self.push_text(literal);
        self.nodes.push(Node { literal, literals: none, name: 0, ends: none, rests: none });
        self.nodes.len() - 1
    }

    fn push_targets(&mut self, routes: Leaf) -> Span {
        let start = self.targets.len();
        for (method, (_, index)) in routes {
            let method = self.push_text(&method);
            self.targets.push(Target { method, index: index as u32 });
        }
        span(start, self.targets.len())
    }
}

/// A manifest is at most 1 MiB and a bundle's config 16 MiB, so that offsets fit 32 bits.
fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, len: (end - start) as u32 }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Router({} routes, {} bytes)", self.targets.len(), self.heap_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[&str]) -> Router {
        Router::new(routes.iter().enumerate().map(|(index, route)| (route.parse().unwrap(), index))).unwrap()
    }

    /// Which route a request finds and its script_len, or the methods that would do.
    fn find(routes: &[&str], method: &str, path: &str) -> String {
        match router(routes).find(method, path) {
            Found::Function { index, script_len, by_wildcard } => {
                assert_eq!(by_wildcard, routes[index].contains("{*"));
                format!("{} {script_len}", routes[index])
            }
            Found::MethodNotAllowed { allow } => allow.join(","),
            Found::None => "none".into(),
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = [
            "/{*rest}",
            "/",
            "/api/{*rest}",
            "/api/users",
            "/api/users/{id}",
            "/api/users/me",
            "/api/{what}/me",
            "GET /api/users/{id}",
            "/files/",
            "/{a}/{b}/c",
        ];
        for (path, expected) in [
            ("/", "/ 1"),
            ("/x", "/{*rest} 0"),
            ("/x/y/z", "/{*rest} 0"),
            ("/x/y/c", "/{a}/{b}/c 6"),
            ("/x//c", "/{*rest} 0"),
            ("/api", "/api/{*rest} 4"),
            ("/api/", "/api/{*rest} 4"),
            ("/api/x/y", "/api/{*rest} 4"),
            ("/api/users", "/api/users 10"),
            ("/api/users/", "/api/{*rest} 4"),
            ("/api/users/7", "GET /api/users/{id} 12"),
            ("/api/users/me", "/api/users/me 13"),
            ("/api/groups/me", "/api/{what}/me 14"),
            ("/api/groups/c", "/api/{*rest} 4"),
            ("/apis", "/{*rest} 0"),
            ("/files/", "/files/ 7"),
            ("/files", "/{*rest} 0"),
        ] {
            assert_eq!(find(&routes, "GET", path), expected, "{path}");
        }
        assert_eq!(find(&routes, "PUT", "/api/users/7"), "/api/users/{id} 12");
    }

    #[test]
    fn a_wildcard_alone_matches_its_folder_too() {
        for (path, expected) in [("/a", "/a/{*r} 2"), ("/a/", "/a/{*r} 2"), ("/a//", "/a/{*r} 2"), ("/ab", "none")] {
            assert_eq!(find(&["/a/{*r}"], "GET", path), expected, "{path}");
        }
        assert_eq!(find(&["/{x}/{*r}"], "GET", "/u/1"), "/{x}/{*r} 2");
        assert_eq!(find(&["/{x}/{*r}"], "GET", "/"), "none");
    }

    #[test]
    fn a_route_for_another_method_steps_back_for_the_next_best() {
        let routes = ["POST /a/b", "GET /a/{x}", "/a/{*rest}", "DELETE /only", "GET /only"];
        for (method, path, expected) in [
            ("POST", "/a/b", "POST /a/b 4"),
            ("GET", "/a/b", "GET /a/{x} 4"),
            ("HEAD", "/a/b", "GET /a/{x} 4"),
            ("PUT", "/a/b", "/a/{*rest} 2"),
            ("PUT", "/only", "DELETE,GET,HEAD"),
            ("PUT", "/none", "none"),
        ] {
            assert_eq!(find(&routes, method, path), expected, "{method} {path}");
        }
        assert_eq!(find(&["GET /a", "HEAD /a", "/a"], "HEAD", "/a"), "HEAD /a 2");
        assert_eq!(find(&["GET /a", "/a"], "HEAD", "/a"), "GET /a 2");
    }

    #[test]
    fn what_is_no_path_finds_nothing() {
        for path in ["", "*", "a", "http://a/"] {
            assert_eq!(find(&["/{*rest}"], "OPTIONS", path), "none", "{path}");
        }
        assert_eq!(Router::default().find("GET", "/"), Found::None);
    }

    #[test]
    fn routes_that_match_the_same_requests_clash() {
        for (first, second, clash) in [
            ("/a", "/a", true),
            ("/a/{x}", "/a/{y}", true),
            ("/a/{*x}", "/a/{*y}", true),
            ("GET /a", "GET /a", true),
            ("GET /a", "/a", false),
            ("GET /a", "HEAD /a", false),
            ("/a", "/a/", false),
            ("/a/{x}", "/a/{*x}", false),
            ("/{x}/b", "/a/{x}", false),
        ] {
            let routes = [first, second].map(|route| route.parse::<RoutePattern>().unwrap());
            let built = Router::new(routes.iter().cloned().zip([7, 9]));
            let [first, second] = routes;
            let expected = RouteClash { first: (first, 7), second: (second, 9) };
            assert_eq!(built.err(), clash.then(|| vec![expected.clone()]), "{expected}");
        }
    }

    #[test]
    fn a_table_with_one_route_takes_little_memory() {
        for (route, most) in [("/{*rest}", 100), ("/api/{*rest}", 200), ("GET /api/v1/users/{id}", 300)] {
            let router = router(&[route]);
            let bytes = size_of::<Router>() + router.heap_bytes();
            assert!(bytes <= most, "{route}: {bytes}");
        }
    }

    #[test]
    fn a_request_that_fits_every_route_but_no_method_steps_back_through_all() {
        // Every mix of a literal and a name over 13 segments: as many ways to step back as there are routes.
        let routes = (0..1 << 13).map(|mix: usize| {
            let segment = |at: usize| if mix >> at & 1 == 0 { "/a".into() } else { format!("/{{n{at}}}") };
            let path: String = (0..13).map(segment).collect();
            (format!("POST {path}").parse().unwrap(), mix)
        });
        let router = Router::new(routes).unwrap();
        let path = "/a".repeat(13);
        assert_eq!(router.find("GET", &path), Found::MethodNotAllowed { allow: vec!["POST".into()] });
        assert_eq!(router.find("POST", &path), Found::Function { index: 0, script_len: 26, by_wildcard: false });
    }
}

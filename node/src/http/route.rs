//! Which request goes where, with the answers that NSQ gives for every other one.
//!
//! axum serves the routes. It answers a wrong method, HEAD, OPTIONS and a sloppy path in ways of its own, so
//! a table of the same routes is asked first.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    handler::Handler,
    http::{
        HeaderValue, Method, StatusCode,
        header::{ALLOW, DATE, LOCATION},
    },
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use tower::ServiceExt;

use super::{
    HttpState,
    guard::Guard,
    reply::{self, ApiError},
};
use crate::env::WallClock;

/// Collects routes for axum and for the table at once, so that the two cannot differ.
pub(super) struct Routes {
    router: Router<HttpState>,
    table: Table,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self { router: Router::new(), table: Table(Vec::new()) }
    }

    pub(super) fn get<H: Handler<T, HttpState>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::GET, MethodFilter::GET, path, handler)
    }

    pub(super) fn post<H: Handler<T, HttpState>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::POST, MethodFilter::POST, path, handler)
    }

    pub(super) fn put<H: Handler<T, HttpState>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.on(Method::PUT, MethodFilter::PUT, path, handler)
    }

    /// The routes, ready to answer.
    pub(super) fn into_app(self, state: HttpState) -> App {
        let (wall, guard) = (Arc::clone(&state.env.wall), state.guard.clone());
        App { router: self.router.with_state(state), table: self.table, wall, guard, refusing: None }
    }

    fn on<H, T>(mut self, method: Method, filter: MethodFilter, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, HttpState>,
        T: 'static,
    {
        self.router = self.router.route(path, on(filter, handler));
        self.table.0.push(Route { method, path });
        self
    }
}

/// Answers requests.
pub(super) struct App {
    router: Router,
    table: Table,
    wall: Arc<dyn WallClock>,
    /// The port of HTTPS, where every request is sent there.
    refusing: Option<u16>,
    guard: Option<Arc<Guard>>,
}

impl App {
    /// Refuses every request from now on, and names the port where it would not be.
    pub(super) fn refusing(mut self, https_port: u16) -> Self {
        self.refusing = Some(https_port);
        self
    }

    pub(super) async fn answer(&self, request: Request) -> Response {
        let mut response = match self.refusing {
            Some(https_port) => tls_required(https_port),
            None => self.route(request).await,
        };
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(self.wall.now())) {
            response.headers_mut().insert(DATE, date);
        }
        response
    }

    async fn route(&self, request: Request) -> Response {
        match self.table.find(request.method(), request.uri().path()) {
            Match::Serve => self.serve(request).await,
            Match::Redirect(path) => redirect(&request, path),
            Match::Options(allow) => with_allow(StatusCode::OK.into_response(), &allow),
            Match::NotAllowed(allow) => {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let code = "METHOD_NOT_ALLOWED";
                with_allow(ApiError { status, code }.into_response(), &allow)
            }
            Match::NotFound => ApiError::absent("NOT_FOUND").into_response(),
        }
    }

    async fn serve(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        if let Some(guard) = &self.guard
            && let Err(refusal) = guard.admit(&parts).await
        {
            return refusal;
        }
        let request = Request::from_parts(parts, body);
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Tells a client of plain HTTP to come by TLS, to the letter: nsqadmin and others read the port.
fn tls_required(https_port: u16) -> Response {
    let body = format!(r#"{{"message": "TLS_REQUIRED", "https_port": {https_port}}}"#);
    let mut response = reply::json_bytes(Body::from(body));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// Sends the client to the right spelling of its path, with its query.
fn redirect(request: &Request, mut path: String) -> Response {
    // A client repeats a GET by itself; anything else it must repeat with the same method and body.
    let status = match *request.method() {
        Method::GET => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::TEMPORARY_REDIRECT,
    };
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    let Ok(location) = HeaderValue::try_from(path) else {
        return ApiError::absent("NOT_FOUND").into_response();
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

fn with_allow(mut response: Response, allow: &str) -> Response {
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

struct Table(Vec<Route>);

/// A method and a path, whose last segment may stand for any (`/config/{opt}`).
struct Route {
    method: Method,
    path: &'static str,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Serve,
    Redirect(String),
    Options(String),
    NotAllowed(String),
    NotFound,
}

impl Table {
    /// In NSQ's order: a route, then a sloppy spelling of a route **of the same method**, then OPTIONS, then
    /// another method's route.
    fn find(&self, method: &Method, path: &str) -> Match {
        let mut same_method = self.0.iter().filter(|route| route.method == method);
        if same_method.clone().any(|route| route.matches(path)) {
            return Match::Serve;
        }
        let segments = clean_segments(path);
        if let Some(fixed) = same_method.find_map(|route| route.fix(&segments)) {
            return Match::Redirect(fixed);
        }
        match (self.allow(path), method) {
            (Some(allow), &Method::OPTIONS) => Match::Options(allow),
            (Some(allow), _) => Match::NotAllowed(allow),
            (None, _) => Match::NotFound,
        }
    }

    /// The methods that `path` has, sorted, or all of the table for `*`; `None` when it has none.
    fn allow(&self, path: &str) -> Option<String> {
        let routes = self.0.iter().filter(|route| path == "*" || route.matches(path));
        let mut methods: Vec<&str> = routes.map(|route| route.method.as_str()).collect();
        if methods.is_empty() {
            return None;
        }
        methods.push("OPTIONS");
        methods.sort_unstable();
        methods.dedup();
        Some(methods.join(", "))
    }
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        match self.path.split_once('{') {
            None => path == self.path,
            Some((prefix, _)) => {
                path.strip_prefix(prefix).is_some_and(|value| !value.is_empty() && !value.contains('/'))
            }
        }
    }

    /// This route's path, if `segments` spell it but for case. It comes from the table, so a redirect never
    /// leads to another host, whatever was asked for.
    fn fix(&self, segments: &[&str]) -> Option<String> {
        let own = clean_segments(self.path);
        let pairs = || own.iter().zip(segments);
        if own.len() != segments.len()
            || !pairs().all(|(own, given)| own.starts_with('{') || own.eq_ignore_ascii_case(given))
        {
            return None;
        }
        Some(pairs().flat_map(|(own, given)| ["/", if own.starts_with('{') { given } else { own }]).collect())
    }
}

/// The parts of a path, without empty ones and with `.` and `..` resolved.
fn clean_segments(path: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: &str, path: &str) -> Match {
        let route = |method, path| Route { method, path };
        let table = Table(vec![
            route(Method::GET, "/ping"),
            route(Method::POST, "/topic/create"),
            route(Method::GET, "/config/{opt}"),
            route(Method::PUT, "/config/{opt}"),
        ]);
        table.find(&Method::from_bytes(method.as_bytes()).unwrap(), path)
    }

    #[test]
    fn known_paths_are_served() {
        assert_eq!(find("GET", "/ping"), Match::Serve);
        assert_eq!(find("POST", "/topic/create"), Match::Serve);
        assert_eq!(find("PUT", "/config/log_level"), Match::Serve);
    }

    #[test]
    fn a_sloppy_path_is_redirected_to_the_route_of_the_same_method() {
        for sloppy in ["/ping/", "/PING", "//ping", "/./ping", "/topic/../Ping//"] {
            assert_eq!(find("GET", sloppy), Match::Redirect("/ping".to_owned()), "{sloppy}");
        }
        assert_eq!(find("POST", "/topic//create"), Match::Redirect("/topic/create".to_owned()));
        assert_eq!(find("GET", "/topic/create/"), Match::NotFound);
        assert_eq!(find("GET", "/Config/Log_Level/"), Match::Redirect("/config/Log_Level".to_owned()));
    }

    #[test]
    fn another_method_is_told_which_ones_there_are() {
        assert_eq!(find("POST", "/ping"), Match::NotAllowed("GET, OPTIONS".to_owned()));
        assert_eq!(find("HEAD", "/ping"), Match::NotAllowed("GET, OPTIONS".to_owned()));
        assert_eq!(find("BREW", "/topic/create"), Match::NotAllowed("OPTIONS, POST".to_owned()));
        assert_eq!(find("DELETE", "/config/x"), Match::NotAllowed("GET, OPTIONS, PUT".to_owned()));
    }

    #[test]
    fn options_lists_the_methods_of_a_path_or_of_the_server() {
        assert_eq!(find("OPTIONS", "/config/x"), Match::Options("GET, OPTIONS, PUT".to_owned()));
        assert_eq!(find("OPTIONS", "*"), Match::Options("GET, OPTIONS, POST, PUT".to_owned()));
    }

    #[test]
    fn other_paths_do_not_exist() {
        for path in ["/", "", "/pings", "/config", "/config/", "/config/a/b", "/topic", "/../.."] {
            assert_eq!(find("GET", path), Match::NotFound, "{path}");
        }
        assert_eq!(find("GET", "*"), Match::NotAllowed("GET, OPTIONS, POST, PUT".to_owned()));
    }
}

//! The answer to each request, and the headers that all of them have.

use axum::{body::Body, extract::Query};
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode, Uri,
    body::Incoming,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName,
        HeaderValue, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    feed::Feed,
    files,
    guard::{self, Refusal},
    history::{self, Histories},
    names::{self, Names},
};
use crate::{
    control::{Request, Requests, api::METRICS_TYPE, ask, connection_limiter::SharedFlag},
    host::paths::Paths,
};

/// Headers of every answer. The policy allows only files of the page, nothing inline, and no HTML from strings in scripts.
/// Other sites can neither embed nor read anything.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// Seconds after which a browser without a place may ask again.
const FULL_SECONDS: &str = "10";

/// What all servers have in common.
#[derive(Debug)]
pub(crate) struct Site {
    requests: Requests,
    feed: Feed,
    histories: Histories,
}

impl Site {
    /// Starts what the page needs. Requests to the daemon go to `requests`.
    pub(crate) fn start(paths: &Paths, requests: Requests) -> Self {
        Self {
            feed: Feed::start(names::own(), requests.clone()),
            histories: Histories::of(&paths.state_dir),
            requests,
        }
    }

    /// Answers a request. Sets `streams` if the answer has no end.
    pub(super) async fn answer(
        &self,
        request: &HttpRequest<Incoming>,
        names: watch::Receiver<Names>,
        streams: &SharedFlag,
    ) -> Response<Body> {
        let served = std::sync::Arc::clone(&names.borrow());
        let (method, uri) = (request.method(), request.uri());
        let checked = guard::check(method, uri, request.headers(), &served);
        let mut response = match checked {
            Err(refusal) => refused(refusal),
            Ok(()) => self.found(method, uri, names, streams).await,
        };
        for (name, value) in HEADERS {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }

    async fn found(
        &self,
        method: &Method,
        uri: &Uri,
        names: watch::Receiver<Names>,
        streams: &SharedFlag,
    ) -> Response<Body> {
        if let Some(file) = files::find(uri.path()) {
            return of_type(file.media_type, file.text);
        }
        match uri.path() {
            "/metrics" => match ask(&self.requests, Request::Metrics).await {
                Ok(Ok(metrics)) => of_type(METRICS_TYPE, metrics),
                Ok(Err(error)) | Err(error) => failed(&error),
            },
            "/events" if *method == Method::HEAD => match self.feed.is_full() {
                true => too_many_pages(),
                false => of_type("text/event-stream", Body::empty()),
            },
            "/events" => self.events(names, streams),
            "/history" => self.history(uri).await,
            _ => plain(
                StatusCode::NOT_FOUND,
                "the page is at /, and metrics are at /metrics\n",
            ),
        }
    }

    fn events(&self, names: watch::Receiver<Names>, streams: &SharedFlag) -> Response<Body> {
        let Some(events) = self.feed.events(names) else {
            return too_many_pages();
        };
        streams.set();
        of_type("text/event-stream", Body::from_stream(events))
    }

    async fn history(&self, uri: &Uri) -> Response<Body> {
        #[derive(Deserialize)]
        struct Asked {
            tunnel: String,
        }
        let Ok(Query(Asked { tunnel })) = Query::try_from_uri(uri) else {
            return plain(StatusCode::BAD_REQUEST, "expected /history?tunnel=NAME\n");
        };
        match self.histories.get(&tunnel).await {
            Ok(json) => of_type("application/json", json),
            Err(history::Error::Unknown) => plain(
                StatusCode::NOT_FOUND,
                "nothing is recorded of this tunnel\n",
            ),
            Err(history::Error::Unreadable(error)) => failed(&error),
        }
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    let text = format!("{refusal}\n");
    match refusal {
        Refusal::ForeignName | Refusal::ForeignPage => plain(StatusCode::FORBIDDEN, text),
        Refusal::Method => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            response
        }
    }
}

fn failed(error: &anyhow::Error) -> Response<Body> {
    plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n"))
}

fn too_many_pages() -> Response<Body> {
    let why = "too many pages are open; close one\n";
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, why);
    let seconds = HeaderValue::from_static(FULL_SECONDS);
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

fn plain(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = of_type("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

fn of_type(media_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    let mut response = Response::new(body.into());
    *response.headers_mut() = headers;
    response
}

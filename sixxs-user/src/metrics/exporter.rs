//! Metrics over TCP: `GET /metrics` only, and only for requests to an address or a name of this host.
//!
//! Tasks: one that accepts connections, and one for each connection; they end when the [`Exporter`] is dropped.
//! The number of connections and their duration are limited.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HOST},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sixxs_core::host::{HostName, is_served};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::debug;

use crate::{
    control::connection_limiter::{ConnectionLimiter, SharedFlag},
    control::{Request, Requests, api::METRICS_TYPE},
};

/// Maximum number of connections; for one more, the oldest is closed.
const MAX_CONNECTIONS: usize = 16;

/// Time limit of a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// Time limit for a request to be complete.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The names in the configuration, and the host's own.
type Names = Arc<[HostName]>;

/// Serves metrics until it is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    address: SocketAddr,
    names: watch::Sender<Names>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts to serve at this address, under these names and the host's own.
    pub(crate) async fn serve(
        address: SocketAddr,
        names: &[HostName],
        requests: Requests,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("serve metrics at {address}"))?;
        let (names, served) = watch::channel(with_own(names));
        Ok(Self {
            address,
            names,
            task: tokio::spawn(accept(listener, served, requests)),
        })
    }

    /// The configured address.
    #[must_use]
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the names; the host's own stays.
    pub(crate) fn rename(&self, names: &[HostName]) {
        let names = with_own(names);
        self.names.send_if_modified(|served| {
            let differs = *served != names;
            *served = names;
            differs
        });
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Adds the host's own name, if it is a valid host name.
fn with_own(names: &[HostName]) -> Names {
    let own = || {
        let name = nix::sys::utsname::uname().ok()?;
        name.nodename().to_str()?.parse().ok()
    };
    names.iter().cloned().chain(own()).collect()
}

async fn accept(listener: TcpListener, names: watch::Receiver<Names>, requests: Requests) {
    let mut connections = ConnectionLimiter::new();
    loop {
        let stream = connections
            .accept("for metrics", |context| listener.poll_accept(context))
            .await;
        // A connection here counts as busy from its first request on, so there may be no idle one to close.
        if !connections.make_room(&(), MAX_CONNECTIONS) {
            connections.close_oldest(&());
        }
        let has_request = SharedFlag::default();
        let conversation = converse(
            stream,
            Arc::clone(&names.borrow()),
            requests.clone(),
            has_request.clone(),
        );
        connections.serve((), has_request, async move {
            if timeout(CONNECTION_LIMIT, conversation).await.is_err() {
                debug!("a connection for metrics took too long");
            }
        });
    }
}

async fn converse(stream: TcpStream, names: Names, requests: Requests, has_request: SharedFlag) {
    let service = service_fn(move |request| {
        has_request.set();
        let (names, requests) = (Arc::clone(&names), requests.clone());
        async move { Ok::<_, Infallible>(answer(&request, &names, &requests).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!("a connection for metrics: {error}");
    }
}

/// Whether the request is for this host. A request without a host name is accepted: browsers always send one.
fn asks_for_us(request: &HttpRequest<Incoming>, names: &[HostName]) -> bool {
    let in_uri = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let headers = request.headers().get_all(HOST).iter();
    // A value that is not text matches no name.
    let in_headers = headers.map(|host| host.to_str().unwrap_or_default());
    in_uri
        .into_iter()
        .chain(in_headers)
        .all(|host| is_served(host, names))
}

async fn answer(
    request: &HttpRequest<Incoming>,
    names: &[HostName],
    requests: &Requests,
) -> Response<Full<Bytes>> {
    if !asks_for_us(request, names) {
        let why = "this is not a name of this host; request its address, or add the name to metrics_hosts\n";
        return plain(StatusCode::FORBIDDEN, why);
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match ask(requests).await {
        Ok(page) => {
            let mut response = Response::new(Full::new(Bytes::from(page)));
            let kind = hyper::header::HeaderValue::from_static(METRICS_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")),
    }
}

async fn ask(requests: &Requests) -> anyhow::Result<String> {
    let (answer_to, answer) = oneshot::channel();
    requests
        .send(Request::Metrics(answer_to))
        .await
        .context("the daemon is ending")?;
    answer.await.context("the daemon is ending")?
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

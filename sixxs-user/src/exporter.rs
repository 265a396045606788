//! Metrics for whoever asks by TCP: `GET /metrics`, and nothing else.
//!
//! Tasks: one that accepts, and one for each connection; they end when the [`Exporter`] is dropped.
//! Connections are few and short, whatever the other side does.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::debug;

use crate::{daemon::Request, metrics};

/// Connections at a time; for one more an old one is given up.
const CONNECTIONS: usize = 16;

/// The whole of a connection.
const LONGEST: Duration = Duration::from_secs(30);

/// Until a request is complete.
const ASKS_WITHIN: Duration = Duration::from_secs(5);

/// When no connection can be accepted, for want of descriptors say.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves metrics as long as it lives.
#[derive(Debug)]
pub(crate) struct Exporter {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Begins to serve at this address.
    pub(crate) async fn serve(
        address: SocketAddr,
        requests: mpsc::Sender<Request>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("serve metrics at {address}"))?;
        Ok(Self {
            address,
            task: tokio::spawn(accept(listener, requests)),
        })
    }

    /// Where it was told to serve.
    #[must_use]
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, requests: mpsc::Sender<Request>) {
    // Ends what it holds when it is dropped.
    let mut connections = JoinSet::new();
    let mut open = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("accept a connection for metrics: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        open.retain(|connection: &Open| !connection.task.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(given_up) = one_to_give_up(&mut open)
        {
            given_up.task.abort();
        }
        let has_asked = Arc::new(AtomicBool::new(false));
        let conversation = converse(stream, requests.clone(), Arc::clone(&has_asked));
        let task = connections.spawn(async move {
            if timeout(LONGEST, conversation).await.is_err() {
                debug!("a connection for metrics took too long");
            }
        });
        open.push_back(Open { task, has_asked });
    }
}

/// A connection.
struct Open {
    task: AbortHandle,
    /// Whether a request has come by it.
    has_asked: Arc<AtomicBool>,
}

/// Which of too many is given up: the oldest of those that have asked nothing, or else of all.
fn one_to_give_up(open: &mut VecDeque<Open>) -> Option<Open> {
    let is_silent = |connection: &Open| !connection.has_asked.load(Ordering::Relaxed);
    let at = open.iter().position(is_silent).unwrap_or(0);
    open.remove(at)
}

async fn converse(stream: TcpStream, requests: mpsc::Sender<Request>, has_asked: Arc<AtomicBool>) {
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        let requests = requests.clone();
        async move { Ok::<_, Infallible>(answer(&request, &requests).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKS_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!("a connection for metrics: {error}");
    }
}

async fn answer(
    request: &HttpRequest<Incoming>,
    requests: &mpsc::Sender<Request>,
) -> Response<Full<Bytes>> {
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
            let kind = hyper::header::HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")),
    }
}

async fn ask(requests: &mpsc::Sender<Request>) -> anyhow::Result<String> {
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

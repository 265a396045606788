//! Serves requests over TCP, at one address.
//!
//! Tasks: one that accepts connections, and one for each connection; they end with the [`Server`]. The number of connections
//! and their duration are limited. Those that follow events have a limit of their own, so that others do not displace them.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sixxs_core::host::HostName;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tracing::debug;

use super::{
    answers::Site,
    names::{Names, closed, with_own},
};
use crate::control::connection_limiter::{ConnectionLimiter, SharedFlag};

/// Maximum number of connections that do not follow events; for one more, the oldest is closed.
const MAX_CONNECTIONS: usize = 16;

/// Time limit of such a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// Time limit of one that follows events, so that a client that takes none does not keep its place. Browsers connect again.
const STREAM_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Time limit for a request to be complete.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Time limit for the end of all connections.
const END_LIMIT: Duration = Duration::from_millis(500);

/// Whether a connection follows events. It changes once.
#[derive(Clone, Debug, Default)]
struct Class(SharedFlag);

impl PartialEq for Class {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_set() == other.0.is_set()
    }
}

/// Serves a site until it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    names: watch::Sender<Names>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts to serve at this address, under these names and the host's own. `what` is for the message of an error.
    pub(crate) async fn serve(
        what: &str,
        address: SocketAddr,
        names: &[HostName],
        site: Arc<Site>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("serve {what} at {address}"))?;
        let (names, served) = watch::channel(with_own(names));
        Ok(Self {
            address,
            names,
            task: tokio::spawn(accept(listener, served, site)),
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

    /// Ends all connections, after their answers. Waits for that, within a limit.
    pub(crate) async fn close(self) {
        let Self { names, task, .. } = self;
        drop(names);
        let abort = task.abort_handle();
        if timeout(END_LIMIT, task).await.is_err() {
            abort.abort();
        }
    }
}

/// Accepts connections until the names end, then waits for the last one.
async fn accept(listener: TcpListener, mut names: watch::Receiver<Names>, site: Arc<Site>) {
    let mut connections = ConnectionLimiter::new();
    loop {
        let served = names.clone();
        let stream = tokio::select! {
            stream = connections.accept("of HTTP", |context| listener.poll_accept(context)) => stream,
            () = closed(&mut names) => break,
        };
        // A connection here counts as busy from its first request on, so there may be no idle one to close.
        let class = Class::default();
        if !connections.make_room(&class, MAX_CONNECTIONS) {
            connections.close_oldest(&class);
        }
        let has_request = SharedFlag::default();
        let conversation = converse(
            stream,
            served,
            Arc::clone(&site),
            has_request.clone(),
            class.0.clone(),
        );
        connections.serve(class, has_request, conversation);
    }
    drop(listener);
    connections.finish().await;
}

/// Serves a connection within its time limit.
async fn converse(
    stream: TcpStream,
    names: watch::Receiver<Names>,
    site: Arc<Site>,
    has_request: SharedFlag,
    streams: SharedFlag,
) {
    let mut answered = pin!(answer_all(
        stream,
        names,
        site,
        has_request,
        streams.clone()
    ));
    let mut in_time = timeout(CONNECTION_LIMIT, &mut answered).await.is_ok();
    if !in_time && streams.is_set() {
        in_time = timeout(STREAM_LIMIT, answered).await.is_ok();
    }
    if !in_time {
        debug!("a connection of HTTP took too long");
    }
}

/// Answers the requests of a connection, and ends it with the server.
async fn answer_all(
    stream: TcpStream,
    mut names: watch::Receiver<Names>,
    site: Arc<Site>,
    has_request: SharedFlag,
    streams: SharedFlag,
) {
    let served = names.clone();
    let service = service_fn(move |request| {
        has_request.set();
        let (site, names, streams) = (Arc::clone(&site), served.clone(), streams.clone());
        async move { Ok::<_, Infallible>(site.answer(&request, names, &streams).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut names) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!("a connection of HTTP: {error}");
    }
}

//! Connections to the control socket. Root and other users have separate limits, so that other users cannot
//! lock root out. A request has to be complete within a time limit.
//!
//! Tasks: one for each connection; they end with the task that accepts.

use std::{convert::Infallible, pin::pin, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Request},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use hyper::{body::Incoming, server::conn::http1, service::Service as _, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use crate::{
    control::{
        ActionError,
        api::Refusal,
        connection_limiter::{ConnectionLimiter, SharedFlag},
    },
    host::clock,
};

/// Limit of root's connections. For one more, the oldest idle connection is closed; if none is idle,
/// the new one is refused.
const MAX_OF_ROOT: usize = 32;

/// The same limit for all other users together.
const MAX_OF_OTHERS: usize = 32;

/// Maximum number of connections that are getting a refusal.
const MAX_REFUSED: usize = 8;

/// Time limit for a request to be complete, and for the next one to begin.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Time limit of a connection, unless it follows alerts. No client waits longer for a response.
const CONNECTION_LIMIT: Duration = Duration::from_secs(180);

/// The class of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Root,
    Others,
    Refused,
}

/// The client of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) uid: Option<u32>,
    /// Whether it follows alerts; then the connection has no time limit.
    pub(super) follows: SharedFlag,
}

/// An error response.
pub(super) struct ErrorResponse(pub(super) StatusCode, pub(super) String);

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}

impl ErrorResponse {
    pub(super) fn busy(why: String) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

impl From<anyhow::Error> for ErrorResponse {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
    }
}

impl From<ActionError> for ErrorResponse {
    fn from(error: ActionError) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred();
        Self {
            uid: credentials.ok().map(|credentials| credentials.uid()),
            follows: SharedFlag::default(),
        }
    }

    pub(super) fn may_change(&self) -> Result<(), ErrorResponse> {
        match self.uid {
            Some(0) => Ok(()),
            _ => Err(ErrorResponse(
                StatusCode::FORBIDDEN,
                "only root may change anything; run as root or with sudo".to_owned(),
            )),
        }
    }
}

/// Accepts connections to the control socket, and serves each in a task. Dropping the future ends them all.
pub(super) async fn serve(listener: UnixListener, app: Router) {
    let mut connections = ConnectionLimiter::new();
    loop {
        let stream = connections
            .accept("to the control socket", |context| {
                listener.poll_accept(context)
            })
            .await;
        let caller = Caller::of(&stream);
        let (class, most) = match caller.uid {
            Some(0) => (Class::Root, MAX_OF_ROOT),
            _ => (Class::Others, MAX_OF_OTHERS),
        };
        let has_request = SharedFlag::default();
        if connections.make_room(&class, most) {
            let conversation = converse(stream, app.clone(), caller, has_request.clone());
            connections.serve(class, has_request, conversation);
        } else {
            // These never count as busy, so this always makes room.
            connections.make_room(&Class::Refused, MAX_REFUSED);
            connections.serve(Class::Refused, has_request, refuse(stream, most));
        }
    }
}

async fn converse(stream: UnixStream, app: Router, caller: Caller, has_request: SharedFlag) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        has_request.set();
        request.extensions_mut().insert(ConnectInfo(caller.clone()));
        let answered = app.call(request);
        let (has_request, follows) = (has_request.clone(), caller.follows.clone());
        async move {
            let answer = answered.await;
            if !follows.is_set() {
                has_request.clear();
            }
            answer
        }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let served = match timeout(CONNECTION_LIMIT, &mut served).await {
        Ok(served) => served,
        Err(_) if caller.follows.is_set() => served.await,
        Err(_) => {
            debug!("a connection to the control socket took too long");
            return;
        }
    };
    if let Err(error) = served {
        debug!("a connection to the control socket: {error}");
    }
}

async fn refuse(stream: UnixStream, most: usize) {
    let service = service_fn(move |_| async move {
        let why = format!("all {most} connections are busy; try again later");
        Ok::<_, Infallible>(ErrorResponse::busy(why).into_response())
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(timeout(REQUEST_LIMIT, served).await, Ok(Ok(()))) {
        debug!("a connection to the control socket is refused");
    }
}

/// Applies the time limit to the body of a request.
pub(super) async fn limit_body_time(request: Request, next: Next) -> Response {
    let ends = clock::after(Instant::now(), REQUEST_LIMIT);
    let (head, body) = request.into_parts();
    let body = stream::unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match timeout_at(ends, body.next()).await {
            Ok(Some(chunk)) => Some((chunk.map_err(anyhow::Error::from), Some(body))),
            Ok(None) => None,
            Err(_) => {
                let limit = REQUEST_LIMIT.as_secs();
                Some((Err(anyhow::anyhow!("not complete within {limit} s")), None))
            }
        }
    });
    next.run(Request::from_parts(head, Body::from_stream(body)))
        .await
}

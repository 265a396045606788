//! The client of the control socket.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::{net::UnixStream, time::timeout};

use crate::control::api::{Refusal, Status};

/// No daemon listens at the socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "no daemon answers at {socket}; start it with `sixxs run`, or see `systemctl status sixxs`"
)]
pub struct NoDaemon {
    socket: String,
}

/// The daemon does not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the daemon did not answer within {} s; is it stopped?", .0.as_secs())]
pub struct Silent(Duration);

/// No permission to connect.
#[derive(Debug, thiserror::Error)]
#[error("may not connect to {0}; run as root, or as a member of its group (sixxs)")]
struct Refused(String);

/// Time limit for a daemon that is idle.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Time limit for `/v1/alive`, for a daemon that is busy.
const ALIVE_LIMIT: Duration = Duration::from_secs(5);

/// Time limit for a request that reads. A daemon that attaches programs to hundreds of interfaces is busy for some
/// time.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Time limit for the lines of a test.
const LINES_LIMIT: Duration = Duration::from_secs(10);

/// Time limit for a request that changes something: each command of a tunnel has a minute.
const CHANGE_LIMIT: Duration = Duration::from_secs(150);

/// Sends a GET request, and parses the response.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    alive(socket).await?;
    let exchange = async { whole(request(socket, Method::GET, path, Bytes::new()).await?).await };
    let body = within(READ_LIMIT, exchange).await?;
    serde_json::from_slice(&body).with_context(|| format!("parse the answer to {path}"))
}

/// The status, with a short time limit, for callers that also have other sources.
pub async fn status_soon(socket: &Path) -> anyhow::Result<Status> {
    match timeout(IDLE_LIMIT, get(socket, "/v1/status")).await {
        Ok(outcome) => outcome,
        Err(_) => bail!(Silent(IDLE_LIMIT)),
    }
}

/// Sends a request for a change.
pub async fn post<T: Serialize + Sync>(socket: &Path, path: &str, body: &T) -> anyhow::Result<()> {
    ask::<_, IgnoredAny>(socket, path, body).await?;
    Ok(())
}

/// Sends a request with a body, and parses the response.
pub async fn ask<T: Serialize + Sync, A: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &T,
) -> anyhow::Result<A> {
    let body = Bytes::from(serde_json::to_vec(body)?);
    alive(socket).await?;
    let exchange = async { whole(request(socket, Method::POST, path, body).await?).await };
    let answer = within(CHANGE_LIMIT, exchange).await?;
    serde_json::from_slice(&answer).with_context(|| format!("parse the answer to {path}"))
}

/// Checks that the daemon answers at all, so that callers do not wait long for one that hangs.
pub async fn alive(socket: &Path) -> anyhow::Result<()> {
    let exchange =
        async { whole(request(socket, Method::GET, "/v1/alive", Bytes::new()).await?).await };
    match timeout(ALIVE_LIMIT, exchange).await {
        // An earlier version does not know the request, but its error response is an answer too.
        Ok(Err(error)) if error.is::<NoDaemon>() || error.is::<Refused>() => Err(error),
        Ok(_) => Ok(()),
        Err(_) => bail!(Silent(ALIVE_LIMIT)),
    }
}

async fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    match timeout(limit, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => bail!(Silent(limit)),
    }
}

/// Sends a GET request, and passes each line of the response on as it arrives.
pub async fn lines(
    socket: &Path,
    path: &str,
    each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    alive(socket).await?;
    let begun = request(socket, Method::GET, path, Bytes::new());
    pass_lines(within(READ_LIMIT, begun).await?, each).await
}

/// Sends a request with a body, and passes each line of the response on as it arrives, for a limited time.
pub async fn ask_for_lines<T: Serialize + Sync>(
    socket: &Path,
    path: &str,
    body: &T,
    each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let body = Bytes::from(serde_json::to_vec(body)?);
    alive(socket).await?;
    let exchange =
        async { pass_lines(request(socket, Method::POST, path, body).await?, each).await };
    within(LINES_LIMIT, exchange).await
}

async fn pass_lines(
    mut response: hyper::body::Incoming,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    while let Some(frame) = response.frame().await {
        // A streamed response is cut off when the daemon ends. A local socket has no other error, and this
        // message is clearer than its own.
        let Ok(frame) = frame else {
            bail!("the daemon has ended");
        };
        if let Some(data) = frame.data_ref() {
            rest.extend_from_slice(data);
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            each(String::from_utf8_lossy(&line).trim_end())?;
        }
    }
    Ok(())
}

async fn whole(response: hyper::body::Incoming) -> anyhow::Result<Bytes> {
    Ok(response
        .collect()
        .await
        .context("read the answer")?
        .to_bytes())
}

async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<hyper::body::Incoming> {
    let shown = socket.display().to_string();
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                bail!(NoDaemon { socket: shown })
            }
            io::ErrorKind::PermissionDenied => bail!(Refused(shown)),
            _ => return Err(error).with_context(|| format!("connect to {shown}")),
        },
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with the exchange, and the request returns its errors too.
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "sixxs")
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    let response = sender
        .send_request(request)
        .await
        .with_context(|| format!("ask the daemon for {path}"))?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response.into_body());
    }
    let body = whole(response.into_body()).await?;
    Err(match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => anyhow!("{}", refusal.error),
        Err(_) => anyhow!("the daemon answered {status} to {path}"),
    })
}

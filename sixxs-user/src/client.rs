//! The other end of the control socket.

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

use crate::api::{Refusal, Status};

/// There is no daemon to talk to.
#[derive(Debug, thiserror::Error)]
#[error(
    "no daemon answers at {socket}; start it with `sixxs run`, or see `systemctl status sixxs`"
)]
pub struct NoDaemon {
    socket: String,
}

/// There is a daemon, and it says nothing.
#[derive(Debug, thiserror::Error)]
#[error("the daemon did not answer within {} s; is it stopped?", .0.as_secs())]
pub struct Silent(Duration);

/// It lets us not connect.
#[derive(Debug, thiserror::Error)]
#[error("may not connect to {0}; run as root, or as a member of its group (sixxs)")]
struct Refused(String);

/// How long one that is well takes at most.
const SOON: Duration = Duration::from_secs(2);

/// How long one that works on something takes at most to say that it is there.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// How long a daemon may take to tell something.
const TELLS_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take to change something: a tunnel's commands have a minute each.
const CHANGES_WITHIN: Duration = Duration::from_secs(150);

/// Asks, and parses the answer.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let exchange = async { whole(request(socket, Method::GET, path, Bytes::new()).await?).await };
    let body = within(TELLS_WITHIN, exchange).await?;
    serde_json::from_slice(&body).with_context(|| format!("understand the answer to {path}"))
}

/// The state, from a daemon that is given less time: for who has more to look at.
pub async fn status_soon(socket: &Path) -> anyhow::Result<Status> {
    match timeout(SOON, get(socket, "/v1/status")).await {
        Ok(outcome) => outcome,
        Err(_) => bail!(Silent(SOON)),
    }
}

/// Has something changed.
pub async fn post<T: Serialize + Sync>(socket: &Path, path: &str, body: &T) -> anyhow::Result<()> {
    ask::<_, IgnoredAny>(socket, path, body).await?;
    Ok(())
}

/// Asks something that has a body, and parses the answer.
pub async fn ask<T: Serialize + Sync, A: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &T,
) -> anyhow::Result<A> {
    let body = Bytes::from(serde_json::to_vec(body)?);
    alive(socket).await?;
    let exchange = async { whole(request(socket, Method::POST, path, body).await?).await };
    let answer = within(CHANGES_WITHIN, exchange).await?;
    serde_json::from_slice(&answer).with_context(|| format!("understand the answer to {path}"))
}

/// Whether the daemon answers at all: one that hangs is not waited for as long as one that works.
pub async fn alive(socket: &Path) -> anyhow::Result<()> {
    let exchange =
        async { whole(request(socket, Method::GET, "/v1/alive", Bytes::new()).await?).await };
    match timeout(ALIVE_WITHIN, exchange).await {
        // One that is older does not know the question; that is an answer, too.
        Ok(Err(error)) if error.is::<NoDaemon>() || error.is::<Refused>() => Err(error),
        Ok(_) => Ok(()),
        Err(_) => bail!(Silent(ALIVE_WITHIN)),
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

/// Asks, and hands each line of the answer on as it comes.
pub async fn lines(
    socket: &Path,
    path: &str,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    alive(socket).await?;
    let begun = request(socket, Method::GET, path, Bytes::new());
    let mut response = within(TELLS_WITHIN, begun).await?;
    let mut rest = Vec::new();
    while let Some(frame) = response.frame().await {
        // An answer that goes on ends in the middle when the daemon does: there is no other error on a
        // socket of this host, and its words say less.
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
    // Ends with the exchange; its errors are the request's too.
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

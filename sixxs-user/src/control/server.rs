//! The control socket: HTTP with JSON on a Unix socket.
//!
//! | request | effect |
//! |---|---|
//! | `GET /v1/alive` | answers at once |
//! | `GET /v1/status`, `/v1/counters`, `/v1/plan` | read only |
//! | `GET /v1/metrics` | read only, in OpenMetrics' text format |
//! | `GET /v1/alerts[?follow=true]` | read only, one JSON object per line |
//! | `POST /v1/tunnels/{start,stop,restart}` with [`Names`] | changes tunnels |
//! | `POST /v1/check/inside` with [`InsideRequest`] | puts packets into the tunnels' ingress, and changes nothing |
//! | `POST /v1/explain/live` with [`LiveRequest`] | expects a packet of the client, and changes nothing: two lines of [`LiveEvent`] |
//! | `POST /v1/check/outside` with [`OutsideRequest`] | sends packets from one link to another, and changes nothing |
//! | `POST /v1/aiccu/{start,stop}` with [`AccountFile`] | changes tunnels |
//! | `POST /v1/reload` with [`Reload`], `/v1/confirm` | changes the configuration |
//! | `POST /v1/reload/check` with [`CheckReload`] | shows what a reload would change |
//! | `POST /v1/quit[?stop=true]` | ends the daemon |
//! | `POST /v1/clock` with [`Displacement`] | moves the daemon's clock, if that is allowed: for tests |
//!
//! The socket's owner and mode allow connections only by root and members of the group `sixxs`. All of them may
//! read; only root may change anything.
//!
//! Tasks: one that accepts connections, and one per connection (`connections.rs`); they end with the daemon.

use std::{
    fs,
    future::ready,
    ops::RangeInclusive,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, DefaultBodyLimit, FromRef, Path as UrlPath, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use nix::unistd::Group;
use serde::Deserialize;
use sixxs_common::inside_test::Way;
use tokio::{
    net::UnixListener,
    sync::{broadcast::error::RecvError, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    connections::{self, Caller, ErrorResponse},
    request::{Quit, Request, Requests, Verb, ask},
};
use crate::{
    bpf::LiveTest,
    control::api::{
        AccountFile, Alert, CheckReload, Displacement, InsideRequest, LiveEvent, LiveRequest,
        LiveWay, METRICS_TYPE, Names, OutsideRequest, Reload,
    },
    host::clock::Clock,
    host::config_file,
    host::files,
};

/// Maximum size of a request's body.
const BODY_BYTES: usize = 64 * 1024;

/// Maximum size of a request that contains a whole configuration. In JSON a character may take six bytes
/// (`\u001b`).
const CHECK_BYTES: usize = 6 * config_file::MAX_BYTES + BODY_BYTES;

/// Limits for the time until a configuration has to be confirmed: at most a day.
pub(crate) const CONFIRM_SECONDS: RangeInclusive<u64> = 1..=86_400;

/// How requests reach the daemon.
#[derive(Clone)]
pub struct DaemonHandle {
    /// Requests.
    pub requests: Requests,
    /// Requests to quit.
    pub quits: mpsc::Sender<Quit>,
    /// The daemon's clock, if requests may move it.
    pub clock: Option<Clock>,
}

impl FromRef<DaemonHandle> for Requests {
    fn from_ref(daemon: &DaemonHandle) -> Self {
        daemon.requests.clone()
    }
}

/// Opens the socket and serves it.
pub fn listen(socket: &Path, group: &str, daemon: DaemonHandle) -> anyhow::Result<JoinHandle<()>> {
    files::remove_if_exists(socket)?;
    let draft = socket.with_extension("new");
    files::remove_if_exists(&draft)?;
    let listener = files::remove_draft_on_error(&draft, bind_and_publish(&draft, socket, group))?;

    let app = Router::new()
        .route("/v1/alive", get(alive))
        .route("/v1/status", get(status))
        .route("/v1/counters", get(counters))
        .route("/v1/metrics", get(metrics))
        .route("/v1/plan", get(plan))
        .route("/v1/alerts", get(alerts))
        .route("/v1/tunnels/{verb}", post(tunnels))
        .route("/v1/check/inside", post(check_inside))
        .route("/v1/explain/live", post(explain_live))
        .route("/v1/check/outside", post(check_outside))
        .route("/v1/aiccu/{verb}", post(aiccu))
        .route("/v1/reload", post(reload))
        .route("/v1/reload/check", post(check_reload))
        .route("/v1/confirm", post(confirm))
        .route("/v1/quit", post(quit))
        .route("/v1/clock", post(clock))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn(connections::limit_body_time))
        .with_state(daemon);
    Ok(tokio::spawn(connections::serve(listener, app)))
}

/// Creates the socket under another name and private, and renames it once its owner and mode are set.
fn bind_and_publish(draft: &Path, socket: &Path, group: &str) -> anyhow::Result<UnixListener> {
    let shown = draft.display();
    let listener = UnixListener::bind(draft).with_context(|| format!("create {shown}"))?;
    let known = Group::from_name(group).with_context(|| format!("look up the group {group}"))?;
    let mode = match known {
        Some(known) => {
            chown(draft, None, Some(known.gid.as_raw()))
                .with_context(|| format!("give {shown} to the group {group}"))?;
            0o660
        }
        None => 0o600,
    };
    fs::set_permissions(draft, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the rights of {shown}"))?;
    fs::rename(draft, socket).with_context(|| format!("create {}", socket.display()))?;
    Ok(listener)
}

/// Shows that the daemon works, before a client waits for a long request.
async fn alive() -> Response {
    done()
}

/// The response of an action that was carried out.
fn done() -> Response {
    Json(serde_json::json!({})).into_response()
}

async fn status(State(requests): State<Requests>) -> Result<Response, ErrorResponse> {
    Ok(Json(ask(&requests, Request::Status).await??).into_response())
}

async fn counters(State(requests): State<Requests>) -> Result<Response, ErrorResponse> {
    Ok(Json(ask(&requests, Request::Counters).await??).into_response())
}

async fn metrics(State(requests): State<Requests>) -> Result<Response, ErrorResponse> {
    let page = ask(&requests, Request::Metrics).await??;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], page).into_response())
}

async fn plan(State(requests): State<Requests>) -> Result<Response, ErrorResponse> {
    Ok(Json(ask(&requests, Request::Plan).await??).into_response())
}

#[derive(Deserialize)]
struct AlertsQuery {
    #[serde(default)]
    follow: bool,
}

async fn alerts(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Query(query): Query<AlertsQuery>,
) -> Result<Response, ErrorResponse> {
    let (so_far, listener) = ask(&requests, Request::Alerts).await?;
    let so_far = stream::iter(so_far);
    let body = if query.follow {
        caller.follows.set();
        let to_come = stream::unfold(listener, |mut listener| async move {
            loop {
                match listener.recv().await {
                    Ok(alert) => return Some((alert, listener)),
                    // The client is too slow and has lost alerts; it still gets the next ones.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Body::from_stream(so_far.chain(to_come).map(|alert| line(&alert)))
    } else {
        Body::from_stream(so_far.map(|alert| line(&alert)))
    };
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn line(alert: &Alert) -> Result<String, serde_json::Error> {
    serde_json::to_string(alert).map(|line| line + "\n")
}

/// The action of a URL, if it is one of these.
fn parse_verb(word: &str, allowed: &[Verb]) -> Result<Verb, ErrorResponse> {
    let verb = match word {
        "start" => Some(Verb::Start),
        "stop" => Some(Verb::Stop),
        "restart" => Some(Verb::Restart),
        _ => None,
    };
    verb.filter(|verb| allowed.contains(verb))
        .ok_or_else(|| ErrorResponse(StatusCode::NOT_FOUND, format!("no action {word:?}")))
}

async fn tunnels(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    UrlPath(verb): UrlPath<String>,
    Json(names): Json<Names>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    let verb = parse_verb(&verb, &[Verb::Start, Verb::Stop, Verb::Restart])?;
    ask(&requests, |answer| Request::Tunnels(verb, names, answer)).await??;
    Ok(done())
}

async fn check_inside(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(asked): Json<InsideRequest>,
) -> Result<Response, ErrorResponse> {
    // It changes nothing, but it sends packets as other hosts.
    caller.may_change()?;
    let tests = ask(&requests, |answer| Request::Inside(asked, answer)).await??;
    Ok(Json(tests).into_response())
}

/// Time limit for the packet of a live test. A neighbour that answers at all most often answers sooner.
const LIVE_LIMIT: Duration = Duration::from_secs(1);

/// The time after that for which a late packet is still kept from the wire: the kernel gives a neighbour up after three
/// seconds.
const LIVE_LATE: Duration = Duration::from_secs(3);

/// The time between two looks for that packet.
const LIVE_INTERVAL: Duration = Duration::from_millis(2);

async fn explain_live(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(asked): Json<LiveRequest>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    let (number, test) = ask(&requests, |answer| Request::Live(asked, answer)).await??;
    let expected = LiveEvent::Expected {
        identifier: number.identifier,
        sequence: number.sequence,
    };
    // The test ends with the stream.
    let events = stream::once(ready(Ok(expected))).chain(stream::once(recorded(test)));
    let lines = events
        .map(|event| -> anyhow::Result<String> { Ok(serde_json::to_string(&event?)? + "\n") });
    let kind = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// Waits until the programs have received the packet of a live test.
async fn recorded(test: LiveTest) -> anyhow::Result<LiveEvent> {
    let since = Instant::now();
    let mut seen = test.read()?;
    while seen.left_ns == 0 && since.elapsed() < LIVE_LIMIT {
        sleep(LIVE_INTERVAL).await;
        seen = test.read()?;
    }
    if seen.left_ns == 0 {
        // It may wait for a neighbour, and leave later.
        tokio::spawn(async move {
            sleep(LIVE_LATE).await;
            drop(test);
        });
    }
    let way = Way::try_from(seen.way).ok().filter(|_| seen.left_ns != 0);
    Ok(LiveEvent::Recorded {
        interface: (seen.ifindex != 0).then_some(seen.ifindex),
        way: way.map(LiveWay),
    })
}

async fn check_outside(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(asked): Json<OutsideRequest>,
) -> Result<Response, ErrorResponse> {
    // It changes nothing, but it sends packets to the internet.
    caller.may_change()?;
    let tests = ask(&requests, |answer| Request::Outside(asked, answer)).await??;
    Ok(Json(tests).into_response())
}

async fn aiccu(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    UrlPath(verb): UrlPath<String>,
    Json(file): Json<AccountFile>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    let verb = parse_verb(&verb, &[Verb::Start, Verb::Stop])?;
    ask(&requests, |answer| Request::Account(verb, file, answer)).await??;
    Ok(done())
}

async fn check_reload(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body,
) -> Result<Response, ErrorResponse> {
    // Check before reading the body: it may be long, and name files that only root may read.
    caller.may_change()?;
    let wrong = |error: &dyn std::fmt::Display| {
        ErrorResponse(
            StatusCode::BAD_REQUEST,
            format!("read the request: {error}"),
        )
    };
    let body = to_bytes(body, CHECK_BYTES).await;
    let body = body.map_err(|error| wrong(&error))?;
    let asked: CheckReload = serde_json::from_slice(&body).map_err(|error| wrong(&error))?;
    let preview = ask(&requests, |answer| Request::Preview(asked, answer)).await??;
    Ok(Json(preview).into_response())
}

async fn reload(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(reload): Json<Reload>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    let within = reload.confirm_within_seconds;
    if within.is_some_and(|seconds| !CONFIRM_SECONDS.contains(&seconds)) {
        let (least, most) = (CONFIRM_SECONDS.start(), CONFIRM_SECONDS.end());
        return Err(ErrorResponse(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("confirm_within_seconds: expected a number from {least} to {most}"),
        ));
    }
    let within = within.map(Duration::from_secs);
    ask(&requests, |answer| Request::Reload(within, answer)).await??;
    Ok(done())
}

async fn clock(
    State(daemon): State<DaemonHandle>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(by): Json<Displacement>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    let Some(clock) = daemon.clock else {
        let why = "this daemon's clock cannot be moved";
        return Err(ErrorResponse(StatusCode::NOT_FOUND, why.to_owned()));
    };
    clock.displace(by.wall_seconds, by.slept_seconds);
    Ok(done())
}

async fn confirm(
    State(requests): State<Requests>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    ask(&requests, Request::Confirm).await??;
    Ok(done())
}

#[derive(Deserialize)]
struct QuitQuery {
    #[serde(default)]
    stop: bool,
}

async fn quit(
    State(daemon): State<DaemonHandle>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Query(query): Query<QuitQuery>,
) -> Result<Response, ErrorResponse> {
    caller.may_change()?;
    let (when_ended, ended) = oneshot::channel();
    let quit = Quit {
        stop: query.stop,
        done: when_ended,
    };
    // An error means that the daemon is ending already.
    if daemon.quits.send(quit).await.is_ok() {
        let _ending = ended.await;
    }
    Ok(done())
}

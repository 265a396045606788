//! The daemon's side: tasks that ask it, and what they tell.
//!
//! Tasks: [`poll`] asks for the status, [`follow`] listens to alerts; both go on for ever and end when
//! they are aborted, or when nobody listens. [`act`] ends with what it does.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::Sender,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::app::Verb;
use crate::{
    api::{Names, Status},
    client,
};

/// What comes from the daemon.
#[derive(Debug)]
pub(super) enum News {
    Status(Box<Status>, Instant),
    /// It does not answer, for this reason.
    Lost(String),
    /// A line of JSON.
    Alert(String),
    Done(Verb, String, Result<(), String>),
}

/// A daemon that has not answered for this long is told to be unreachable: it takes milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// How long a daemon that is gone is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks for the status at each tick.
pub(super) async fn poll(socket: PathBuf, every: Duration, news: Sender<News>) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = timeout(ANSWERS_WITHIN, client::get(&socket, "/v1/status"));
        let one = match answer.await {
            Ok(Ok(status)) => News::Status(Box::new(status), Instant::now()),
            Ok(Err(error)) if error.is::<client::NoDaemon>() => {
                News::Lost("it is not running".to_owned())
            }
            Ok(Err(error)) => News::Lost(format!("{error:#}")),
            Err(_) => News::Lost("it is running, and does not answer".to_owned()),
        };
        if news.send(one).await.is_err() {
            return;
        }
    }
}

/// Listens to alerts, those of before first. Whether the daemon is there is for [`poll`] to say.
pub(super) async fn follow(socket: PathBuf, news: Sender<News>) {
    while !news.is_closed() {
        let listened = client::lines(&socket, "/v1/alerts?follow=true", |line| {
            // Faster than they can be read, they are told again after a while.
            Ok(news.try_send(News::Alert(line.to_owned()))?)
        });
        // However it ended, it is tried again.
        let _ended = listened.await;
        sleep(AGAIN).await;
    }
}

/// Has the daemon do something.
pub(super) async fn act(socket: PathBuf, verb: Verb, name: String, news: Sender<News>) {
    let path = format!("/v1/tunnels/{}", verb.name());
    let names = Names {
        tunnels: vec![name.clone()],
        refresh: false,
    };
    let done = client::post(&socket, &path, &names).await;
    let outcome = done.map_err(|error| format!("{error:#}"));
    // Where nobody listens any more, nobody asks either.
    let _unheard = news.send(News::Done(verb, name, outcome)).await;
}

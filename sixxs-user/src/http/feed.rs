//! Reads the status for all clients of `/events` together, and hands each of them what is new.
//!
//! Task: one, which ends with the [`Feed`]. While there are no clients it does nothing.
//!
//! A client gets the newest frame when it has taken the one before. So a slow client misses some, and nothing is stored
//! for it.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::{Stream, stream};
use hyper::body::Bytes;
use serde::Serialize;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::debug;

use super::{
    names::{Names, closed},
    rates::Meter,
    view::{self, View},
};
use crate::control::{Request, Requests, api::Alert, ask};

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(2);

/// The maximum number of clients.
pub(super) const MAX_CLIENTS: usize = 16;

/// The events of one reading.
#[derive(Debug)]
struct Frame {
    /// Counts the changes of `state`.
    version: u64,
    state: Bytes,
    rates: Bytes,
}

/// What a client gets next; `None` while there is nothing yet.
type Newest = Option<Arc<Frame>>;

/// The feed of events.
#[derive(Debug)]
pub(super) struct Feed {
    frames: watch::Sender<Newest>,
    /// Wakes the task for a first client.
    wanted: Arc<Notify>,
    places: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Starts the task. `host`: the name of this host.
    pub(super) fn start(host: String, requests: Requests) -> Self {
        let frames = watch::Sender::new(None);
        let wanted = Arc::<Notify>::default();
        let task = Task {
            host,
            requests,
            frames: frames.clone(),
            wanted: Arc::clone(&wanted),
        };
        Self {
            frames,
            wanted,
            places: Arc::new(Semaphore::new(MAX_CLIENTS)),
            task: tokio::spawn(task.run()),
        }
    }

    /// Whether there are as many clients as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// The events for a client, until the server ends that the names come from; `None`: there are too many clients.
    pub(super) fn events(
        &self,
        names: watch::Receiver<Names>,
    ) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + use<>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut frames = self.frames.subscribe();
        frames.mark_changed();
        self.wanted.notify_one();
        let client = Client {
            frames,
            names,
            seen: None,
            _place: place,
        };
        Some(stream::unfold(client, |mut client| async move {
            let events = client.next().await?;
            Some((Ok(events), client))
        }))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client of the feed.
struct Client {
    frames: watch::Receiver<Newest>,
    names: watch::Receiver<Names>,
    /// The version of `state` that it has.
    seen: Option<u64>,
    _place: OwnedSemaphorePermit,
}

impl Client {
    /// Waits for the next frame; `None`: the server ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                () = closed(&mut self.names) => return None,
                changed = self.frames.changed() => changed.ok()?,
            }
            let Some(frame) = self.frames.borrow_and_update().clone() else {
                continue;
            };
            let is_new = self.seen.replace(frame.version) != Some(frame.version);
            return Some(match is_new {
                true => [&frame.state[..], &frame.rates[..]].concat().into(),
                false => frame.rates.clone(),
            });
        }
    }
}

/// Reads the status, and makes the frames.
struct Task {
    host: String,
    requests: Requests,
    frames: watch::Sender<Newest>,
    wanted: Arc<Notify>,
}

impl Task {
    async fn run(self) {
        let mut version = 0;
        while !self.requests.is_closed() {
            if self.frames.receiver_count() == 0 {
                // It would be out of date when the next client comes.
                self.frames.send_replace(None);
                self.wanted.notified().await;
            }
            if let Err(error) = self.serve(&mut version).await {
                debug!("no events for the page: {error:#}");
                sleep(INTERVAL).await;
            }
        }
    }

    /// Makes frames until no client is left.
    async fn serve(&self, version: &mut u64) -> anyhow::Result<()> {
        let (so_far, mut alerts) = ask(&self.requests, Request::Alerts).await?;
        let mut incidents = VecDeque::new();
        for alert in so_far {
            view::add(&mut incidents, alert);
        }
        let (mut meter, started) = (Meter::default(), Instant::now());
        let mut state = Bytes::new();
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.frames.receiver_count() > 0 {
            ticks.tick().await;
            let status = ask(&self.requests, Request::Status).await??;
            take_all(&mut alerts, |alert| view::add(&mut incidents, alert));
            let new = event("state", &View::of(&self.host, &status, &incidents))?;
            if new != state {
                *version += 1;
                state = new;
            }
            let rates = event("rates", &meter.add(started.elapsed(), &status))?;
            let frame = Frame {
                version: *version,
                state: state.clone(),
                rates,
            };
            self.frames.send_replace(Some(Arc::new(frame)));
        }
        Ok(())
    }
}

/// Takes the alerts that have come.
fn take_all(alerts: &mut broadcast::Receiver<Alert>, mut take: impl FnMut(Alert)) {
    use broadcast::error::TryRecvError;
    loop {
        match alerts.try_recv() {
            Ok(alert) => take(alert),
            // Some were lost; there are newer ones.
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

/// A server-sent event (HTML, §9.2.6). JSON has no line breaks.
fn event(name: &str, data: &impl Serialize) -> anyhow::Result<Bytes> {
    let data = serde_json::to_string(data).context("write an event")?;
    Ok(Bytes::from(format!("event: {name}\ndata: {data}\n\n")))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::{
        sync::mpsc,
        time::{advance, timeout},
    };

    use super::*;
    use crate::http::{fixture::status, names::with_own};

    /// A daemon whose corrections are the number of the reading. Returns its feed, and how many readings there were.
    fn feed() -> (Feed, watch::Receiver<u64>) {
        let (requests, mut queue) = mpsc::channel(4);
        let (readings, seen) = watch::channel(0);
        tokio::spawn(async move {
            let (alerts, _) = broadcast::channel(1);
            while let Some(request) = queue.recv().await {
                match request {
                    Request::Alerts(answer) => {
                        answer.send((Vec::new(), alerts.subscribe())).unwrap();
                    }
                    Request::Status(answer) => {
                        readings.send_modify(|count| *count += 1);
                        let mut status = status(&["sixxs0"]);
                        status.corrections = *readings.borrow() / 3;
                        answer.send(Ok(status)).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        (Feed::start("web1".to_owned(), requests), seen)
    }

    #[tokio::test(start_paused = true)]
    async fn the_state_is_sent_when_it_changes() {
        let (feed, _) = feed();
        let (_server, names) = watch::channel(with_own(&[]));
        let mut events = Box::pin(feed.events(names).unwrap());
        let mut has_state = Vec::new();
        for _ in 0..6 {
            let events = events.next().await.unwrap().unwrap();
            let text = std::str::from_utf8(&events).unwrap();
            assert!(
                text.ends_with("}\n\n") && text.contains("event: rates\ndata: {"),
                "{text}"
            );
            has_state.push(text.starts_with("event: state\ndata: {"));
        }
        // Readings 3 and 6 have another number of corrections.
        assert_eq!(has_state, [true, false, true, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_clients_nothing_is_read() {
        let (feed, seen) = feed();
        advance(INTERVAL * 10).await;
        assert_eq!(*seen.borrow(), 0);
        let (server, names) = watch::channel(with_own(&[]));
        let mut events = Box::pin(feed.events(names.clone()).unwrap());
        events.next().await.unwrap().unwrap();
        drop(events);
        sleep(INTERVAL * 3).await;
        let count = *seen.borrow();
        sleep(INTERVAL * 10).await;
        assert_eq!(*seen.borrow(), count);
        // The next client gets nothing old, and none too many is served.
        let mut clients: Vec<_> = (0..MAX_CLIENTS)
            .map(|_| Box::pin(feed.events(names.clone()).unwrap()))
            .collect();
        assert!(feed.events(names.clone()).is_none());
        clients[0].next().await.unwrap().unwrap();
        assert!(*seen.borrow() > count);
        // Clients end with the server.
        drop((server, names));
        let end = timeout(INTERVAL * 3, async {
            while clients[1].next().await.is_some() {}
        });
        end.await.unwrap();
    }
}

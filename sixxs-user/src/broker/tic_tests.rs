use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use sixxs_core::{broker::tic::Problem, secret::Secret};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{
    super::connects::{Limit, WaitReason},
    *,
};

const TIMES: Times = Times {
    step: Duration::from_secs(5),
    whole: Duration::from_secs(10),
};

/// A server on this host, and the number of connects to it.
struct Fake {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Fake {
    /// Calls `serve` for each connection.
    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        Self { port, accepted }
    }

    /// A server that always sends the same bytes.
    async fn says(words: impl Into<Vec<u8>>) -> Self {
        let words = Arc::new(words.into());
        Self::start(move |mut stream| {
            let words = Arc::clone(&words);
            async move {
                // The client may close before it has read everything.
                let _heard = stream.write_all(&words).await;
                let _gone = stream.read(&mut [0; 64]).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn request(&self) -> Request {
        Request {
            server: Server {
                host: "127.0.0.1".to_owned(),
                port: self.port,
            },
            tls: TlsChoice::default(),
            login: Login {
                username: "ABC1-SIXXS".to_owned(),
                password: Secret::from("s3cret-passw0rd"),
                require_tls: false,
                agent: agent(),
            },
            goal: Goal::Parameters { tunnel_id: None },
            times: TIMES,
        }
    }
}

/// A broker; with TLS if it gets a configuration.
async fn broker(tls: Option<ServerConfig>) -> Fake {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    Fake::start(move |stream| {
        let tls = tls.clone();
        async move {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"200 Ready\r\n").await.unwrap();
            if answer(&mut stream, tls.is_some()).await
                && let Some(tls) = tls
                && let Ok(stream) = tls.accept(stream.into_inner()).await
            {
                answer(&mut BufReader::new(stream), false).await;
            }
        }
    })
    .await
}

/// Answers until TLS begins (`true`) or the client closes.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, tls: bool) -> bool {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return false;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = jiff::Timestamp::now().as_second();
        let reply = match words[..] {
            ["get", "unixtime"] => format!("200 {now}\n"),
            ["starttls"] if tls => "200 Go\n".to_owned(),
            ["starttls"] => "400 No TLS\n".to_owned(),
            ["challenge", "md5"] => "200 0123456789\n".to_owned(),
            // md5("0123456789" + md5("s3cret-passw0rd")), computed with md5sum.
            ["authenticate", "md5", "c365ddd7e206dedac70e7d7575fbb5e7"] => {
                "200 Welcome\n".to_owned()
            }
            ["authenticate", ..] => "400 Wrong password\n".to_owned(),
            ["tunnel", "list"] => {
                "201 List\nT42 2001:db8:2ff:1::2 ayiya nlams01\n202 End\n".to_owned()
            }
            ["tunnel", "show", "T42"] => "201 Tunnel\nTunnelId: T42\nType: ayiya\n\
                 IPv6 Endpoint: 2001:db8:2ff:1::2\nIPv6 POP: 2001:db8:2ff:1::1\n\
                 IPv6 PrefixLength: 64\nPOP Id: nlams01\nIPv4 Endpoint: ayiya\n\
                 IPv4 POP: 198.51.100.1\nUserState: enabled\nAdminState: enabled\n\
                 Password: hartslag\n202 End\n"
                .to_owned(),
            ["tunnel", "show", ..] => "400 No such tunnel\n".to_owned(),
            ["QUIT", ..] => return false,
            _ => "200 Fine\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await.unwrap();
        if tls && words == ["starttls"] {
            return true;
        }
    }
}

/// A certificate for 127.0.0.1, and a file with it.
fn certificate(directory: &Path) -> (ServerConfig, PathBuf) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = directory.join("ca.pem");
    fs::write(&file, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (config, file)
}

fn plenty(directory: &Path) -> Connects {
    let limit = Limit {
        connects: 100,
        ..Limit::default()
    };
    Connects::new(directory, limit)
}

fn expect_parameters(outcome: Result<Outcome, Error>) {
    match outcome {
        Ok(Outcome::Parameters(parameters)) => {
            assert_eq!(parameters.id, "T42");
            assert_eq!(parameters.password, Some(Secret::from("hartslag")));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_tls_unless_it_is_required() {
    let state = tempfile::tempdir().unwrap();
    let connects = plenty(state.path());
    let server = broker(None).await;
    expect_parameters(fetch(server.request(), &connects).await);

    let mut strict = server.request();
    strict.login.require_tls = true;
    let error = fetch(strict, &connects).await.unwrap_err();
    assert!(
        error.to_string().contains("does not offer it: \"No TLS\""),
        "{error}"
    );
    assert_eq!(error.retry(), Retry::WhenChanged);

    let mut lists = server.request();
    lists.goal = Goal::Tunnels;
    let Ok(Outcome::Tunnels(tunnels)) = fetch(lists, &connects).await else {
        panic!("no list");
    };
    assert_eq!(tunnels[0].id, "T42");
}

#[tokio::test]
async fn with_tls() {
    let state = tempfile::tempdir().unwrap();
    let connects = plenty(state.path());
    let (config, ca) = certificate(state.path());
    let server = broker(Some(config)).await;

    let mut good = server.request();
    good.login.require_tls = true;
    good.tls.ca = Some(ca);
    expect_parameters(fetch(good, &connects).await);

    let mut any = server.request();
    any.tls.verify = false;
    expect_parameters(fetch(any, &connects).await);

    // The certificate's authority is not trusted.
    let other = tempfile::tempdir().unwrap();
    let (_, wrong) = certificate(other.path());
    for ca in [Some(wrong), None] {
        let mut request = server.request();
        request.tls.ca = ca;
        let error = fetch(request, &connects).await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(
            error.to_string().contains("name its authority by tls_ca"),
            "{error}"
        );
    }

    // Without the file nothing is sent at all.
    let before = server.accepted();
    let mut request = server.request();
    request.tls.ca = Some(state.path().join("none.pem"));
    let error = fetch(request, &connects).await.unwrap_err();
    assert!(matches!(error, Error::Local(_)), "{error}");
    assert!(error.to_string().contains("none.pem"), "{error}");
    // A pipe would block forever.
    let pipe = state.path().join("pipe.pem");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let mut request = server.request();
    request.tls.ca = Some(pipe);
    let fetched = timeout(Duration::from_secs(10), fetch(request, &connects));
    let error = fetched.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("pipe.pem: it is a pipe"), "{error}");
    assert_eq!(server.accepted(), before);
}

#[tokio::test]
async fn refusals_contain_the_servers_message() {
    let state = tempfile::tempdir().unwrap();
    let connects = plenty(state.path());
    let server = broker(None).await;
    let mut request = server.request();
    request.login.password = Secret::from("another");
    let error = fetch(request, &connects).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "127.0.0.1:{}: password: the server refuses: \"Wrong password\"",
            server.port
        )
    );
    assert_eq!(error.retry(), Retry::WhenChanged);

    let mut request = server.request();
    request.goal = Goal::Parameters {
        tunnel_id: Some("T43".to_owned()),
    };
    let error = fetch(request, &connects).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("the server refuses: \"No such tunnel\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_locked_out_broker_gets_no_connect() {
    let state = tempfile::tempdir().unwrap();
    let limit = Limit {
        connects: 10,
        window: Duration::from_secs(4),
        lockout: Duration::from_secs(1),
        block: Duration::from_secs(600),
    };
    let connects = Connects::new(state.path(), limit);
    let server = Fake::says("500 You connect too often\n").await;
    let Err(Error::TooOften { error, wait, .. }) = fetch(server.request(), &connects).await else {
        panic!("not refused");
    };
    assert_eq!(
        error.problem,
        Problem::TooOften("You connect too often".to_owned())
    );
    assert_eq!(wait.why, WaitReason::LockedOut);

    // The lockout applies to the host name and to its address.
    let mut request = server.request();
    request.server.host = "localhost".to_owned();
    for request in [server.request(), request] {
        let Err(error @ Error::Wait { wait, .. }) = fetch(request, &connects).await else {
            panic!("no wait");
        };
        assert_eq!(error.retry(), Retry::After(wait));
    }
    assert_eq!(server.accepted(), 1);

    let slot = connects.wait_for_slot("127.0.0.1");
    let _spent = timeout(Duration::from_secs(10), slot)
        .await
        .unwrap()
        .unwrap();
    let again = fetch(server.request(), &connects).await.unwrap_err();
    let Error::TooOften { wait, .. } = again else {
        panic!("{again}");
    };
    assert_eq!((wait.why, server.accepted()), (WaitReason::Blocked, 2));
}

#[tokio::test]
async fn the_connect_limit_applies_to_queries() {
    let state = tempfile::tempdir().unwrap();
    let connects = Connects::new(state.path(), Limit::default());
    let server = broker(None).await;
    for _ in 0..3 {
        expect_parameters(fetch(server.request(), &connects).await);
    }
    let error = fetch(server.request(), &connects).await.unwrap_err();
    assert!(matches!(error, Error::Wait { .. }), "{error}");
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn slow_invalid_and_closed_responses_are_errors() {
    let state = tempfile::tempdir().unwrap();
    let connects = plenty(state.path());
    let hangs_up = Fake::start(|stream| async move { drop(stream) }).await;
    let drips = Fake::start(|mut stream| async move {
        while stream.write_all(b"2").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for (server, expected) in [
        (Fake::says("").await, "greeting: no answer within 500ms"),
        (drips, "greeting: no answer within 500ms"),
        (
            Fake::says("200 Hi\n").await,
            "introduction: no answer within 500ms",
        ),
        (
            Fake::says("GARBAGE\n").await,
            "greeting: the server sent a reply without a code",
        ),
        (
            Fake::says(vec![b'x'; 5_000_000]).await,
            "the server sent a line of more than 4096 bytes",
        ),
        (
            Fake::says([0xff; 40]).await,
            "greeting: no answer within 500ms",
        ),
        (
            Fake::says("200 Hi\n".repeat(100_000)).await,
            "sent unexpected data",
        ),
        (hangs_up, "the server closed the connection"),
    ] {
        let mut request = server.request();
        request.times.step = Duration::from_millis(500);
        let error = fetch(request, &connects).await.unwrap_err();
        let text = error.to_string();
        // If the server closes at once, the client may get a reset.
        let reset = expected.contains("closed") && text.contains("reset");
        assert!(text.contains(expected) || reset, "{text}");
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(server.accepted(), 1);
    }

    let mut request = broker(None).await.request();
    request.times.whole = Duration::ZERO;
    let error = fetch(request, &connects).await.unwrap_err();
    assert!(error.to_string().contains("took longer"), "{error}");
}

#[tokio::test]
async fn an_unreachable_server_is_an_error() {
    let state = tempfile::tempdir().unwrap();
    let connects = plenty(state.path());
    let closed = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut request = Fake::says("").await.request();
    request.server.port = closed;
    let error = fetch(request, &connects).await.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
    // The failed connect took a slot.
    let standing = connects.standing("127.0.0.1").await.unwrap();
    assert_eq!(standing.slots_left, 99);
}

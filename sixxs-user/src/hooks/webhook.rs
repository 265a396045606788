//! Posts an alert to a web server, with one connection for each alert. Of the response only the status is used.

use anyhow::ensure;
use sixxs_core::config::Webhook;

use crate::web::{self, Message, Route};

/// Posts an alert.
pub(super) async fn post(webhook: &Webhook, line: &str) -> anyhow::Result<()> {
    let Webhook { url, ca } = webhook;
    let stream = web::open(url, ca.as_deref(), Route::Any).await?;
    let message = Message::PostJson(line);
    let answer = web::exchange(stream, url, &url.target, message, 0).await?;
    let (host, status) = (&url.host, answer.status);
    ensure!((200..300).contains(&status), "{host} answered {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
    use sixxs_core::config::Url;
    use std::sync::Arc;
    use tokio::{
        io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
    };
    use tokio_rustls::TlsAcceptor;

    fn webhook(port: u16, ca: Option<String>) -> Webhook {
        let scheme = if ca.is_some() { "https" } else { "http" };
        Webhook {
            url: Url::parse(&format!("{scheme}://127.0.0.1:{port}/tell?token=geheim")).unwrap(),
            ca,
        }
    }

    /// Reads the complete request, and sends the answer.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut some = [0; 1024];
            let read = stream.read(&mut some).await.unwrap();
            assert_ne!(read, 0);
            request.extend_from_slice(&some[..read]);
        }
        // The client may close before it reads the answer.
        let _gone = stream.write_all(answer.as_bytes()).await;
        let _gone = stream.shutdown().await;
        String::from_utf8(request).unwrap()
    }

    async fn server(
        tls: Option<TlsAcceptor>,
        answer: &'static str,
    ) -> (u16, JoinHandle<Option<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match tls {
                None => Some(serve(stream, answer).await),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Some(serve(stream, answer).await),
                    Err(_) => None,
                },
            }
        });
        (port, served)
    }

    const GOOD: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn an_alert_is_posted() {
        let (port, served) = server(None, GOOD).await;
        post(&webhook(port, None), r#"{"kind":"leak"}"#)
            .await
            .unwrap();
        let request = served.await.unwrap().unwrap();
        assert!(
            request.starts_with("POST /tell?token=geheim HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{request}"
        );
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert!(
            request.ends_with("\r\n\r\n{\"kind\":\"leak\"}"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn errors_do_not_contain_the_secret() {
        for (answer, expected) in [
            (
                "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
                "answered 503",
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
                "answered 302",
            ),
            ("nonsense\r\n\r\n", "talk to 127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            let (port, served) = server(None, answer).await;
            let error = post(&webhook(port, None), "{}").await.unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(expected), "{answer:?}: {error}");
            assert!(!error.contains("geheim"), "{error}");
            served.await.unwrap();
        }
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let error = post(&webhook(port, None), "{}").await.unwrap_err();
        assert!(
            format!("{error:#}").contains(&format!("port {port}")),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn the_certificate_of_a_server_is_verified() {
        let directory = tempfile::tempdir().unwrap();
        let [(ours, ca), (theirs, _)] = ["ours", "theirs"].map(|name| {
            let CertifiedKey { cert, signing_key } =
                generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            let file = directory.path().join(name);
            std::fs::write(&file, cert.pem()).unwrap();
            let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
            let file = file.to_str().unwrap().to_owned();
            (TlsAcceptor::from(Arc::new(config)), file)
        });
        let (port, served) = server(Some(ours), GOOD).await;
        post(&webhook(port, Some(ca.clone())), "{}").await.unwrap();
        assert!(served.await.unwrap().unwrap().starts_with("POST /tell"));

        let (port, served) = server(Some(theirs), GOOD).await;
        let error = post(&webhook(port, Some(ca)), "{}").await.unwrap_err();
        assert!(format!("{error:#}").contains("start TLS"), "{error:#}");
        assert_eq!(served.await.unwrap(), None);
    }
}

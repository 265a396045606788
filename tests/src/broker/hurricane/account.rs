//! The tunnels of an account, and what the server makes of a request. Pure.

use std::net::Ipv4Addr;

/// Answers `nochg` to this number of requests in a row; then the tunnel is blocked.
pub const MOST_UNCHANGED: u32 = 3;

/// An account with its tunnels.
#[derive(Clone, Debug)]
pub struct Account {
    /// The user name.
    pub user: String,
    /// The password of updates, and of the tunnels' data.
    pub key: String,
    /// The tunnels.
    pub tunnels: Vec<TunnelData>,
}

/// A tunnel, as the server reports it.
#[derive(Clone, Debug)]
pub struct TunnelData {
    /// Its number.
    pub id: u32,
    /// Its description.
    pub description: String,
    /// The PoP's IPv4 address.
    pub server4: Ipv4Addr,
    /// The client's IPv4 address.
    pub client4: Ipv4Addr,
    /// The PoP's address in the tunnel, with its length.
    pub server6: String,
    /// The client's address in the tunnel, with its length.
    pub client6: String,
    /// The routed /64.
    pub routed64: String,
    /// The routed /48, if there is one.
    pub routed48: Option<String>,
    /// Requests in a row that changed nothing.
    pub unchanged: u32,
}

/// A request for `/nic/update` or `/tunnelInfo.php`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The path.
    pub path: String,
    /// User name and password, if there are any.
    pub login: Option<(String, String)>,
    /// The tunnel.
    pub hostname: Option<String>,
    /// The address in the request.
    pub myip: Option<String>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The text.
    pub body: String,
    /// The number and the new address of a tunnel whose endpoint has changed.
    pub moved: Option<(u32, Ipv4Addr)>,
}

impl Reply {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
            moved: None,
        }
    }
}

impl Account {
    /// Answers a request that came from this address. `is_pingable` pings an address.
    pub fn answer(
        &mut self,
        query: &Query,
        from: Ipv4Addr,
        is_pingable: impl FnOnce(Ipv4Addr) -> bool,
    ) -> Reply {
        let is_known = query
            .login
            .as_ref()
            .is_some_and(|(user, key)| *user == self.user && *key == self.key);
        match query.path.as_str() {
            "/nic/update" if !is_known => Reply::text(200, "badauth\n"),
            "/nic/update" => self.update(query, from, is_pingable),
            "/tunnelInfo.php" if !is_known => Reply::text(401, "<html>401</html>"),
            "/tunnelInfo.php" => Reply::text(200, self.xml()),
            _ => Reply::text(404, "<html>404</html>"),
        }
    }

    fn update(
        &mut self,
        query: &Query,
        from: Ipv4Addr,
        is_pingable: impl FnOnce(Ipv4Addr) -> bool,
    ) -> Reply {
        let id: Option<u32> = query.hostname.as_ref().and_then(|name| name.parse().ok());
        let mut tunnels = self.tunnels.iter_mut();
        let Some(tunnel) = tunnels.find(|tunnel| Some(tunnel.id) == id) else {
            return Reply::text(200, "nohost\n");
        };
        if tunnel.unchanged >= MOST_UNCHANGED {
            return Reply::text(200, "abuse\n");
        }
        let address = match query.myip.as_ref().map(|text| text.parse()) {
            None => from,
            Some(Ok(address)) => address,
            Some(Err(_)) => return Reply::text(200, "-ERROR: IP is not in a valid format"),
        };
        if address.is_private() {
            return Reply::text(
                200,
                "-ERROR: IP is blocked. (RFC1918 Private Address Space)",
            );
        }
        if tunnel.client4 == address {
            tunnel.unchanged += 1;
            return Reply::text(200, format!("nochg {address}\n"));
        }
        if !is_pingable(address) {
            let text = "-ERROR: IP is not ICMP pingable. Please make sure ICMP is not blocked.";
            return Reply::text(200, text);
        }
        tunnel.unchanged = 0;
        tunnel.client4 = address;
        Reply {
            moved: Some((tunnel.id, address)),
            ..Reply::text(200, format!("good {address}\n"))
        }
    }

    fn xml(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<tunnels>\n".to_owned();
        for tunnel in &self.tunnels {
            let more = tunnel.routed48.as_ref();
            let more = more.map_or(String::new(), |prefix| {
                format!("  <routed48>{prefix}</routed48>\n")
            });
            text += &format!(
                "<tunnel id=\"{}\">\n  <description>{}</description>\n  <serverv4>{}</serverv4>\n  \
                 <clientv4>{}</clientv4>\n  <serverv6>{}</serverv6>\n  <clientv6>{}</clientv6>\n  \
                 <routed64>{}</routed64>\n{more}  <rdns1>ns1.example.net</rdns1>\n</tunnel>\n",
                tunnel.id,
                tunnel.description,
                tunnel.server4,
                tunnel.client4,
                tunnel.server6,
                tunnel.client6,
                tunnel.routed64,
            );
        }
        text + "</tunnels>\n"
    }
}

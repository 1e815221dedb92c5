//! Calls that the door makes: to addresses that clients name, so never to one that it must not reach.

use hmac::{Hmac, Mac};
use reqwest::dns::{Addrs, Name as DnsName, Resolve, Resolving};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use sha2::Sha256;
use stageline_base::{Fault, hex};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a connection may take, and all of a call.
const CONNECT: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(30);
/// Longest URL.
const MAX_URL_BYTES: usize = 2048;
/// The header with the signature.
const SIGNATURE: &str = "x-stageline-signature";

/// A host that may be called, on one port or on any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// In lower case; what begins with `*.` is any host of that domain.
    pub host: String,
    /// The port; any, where it is not said.
    pub port: Option<u16>,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Allowed {
    fn takes(&self, host: &str, port: u16) -> bool {
        let named = match self.host.strip_prefix("*.") {
            Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
            None => host == self.host,
        };
        named && self.port.is_none_or(|allowed| allowed == port)
    }
}

/// Whom the door may call, and how it says that it is the one who calls.
#[derive(Clone, Default)]
pub struct Outgoing {
    /// Hosts that may be called; where none is named, all but those that never may.
    pub allow: Vec<Allowed>,
    /// What calls are signed with.
    pub secret: Option<Vec<u8>>,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// It was answered with this status, and when to try again if that was said.
    Answered(u16, Option<Duration>),
    /// It was not, and may be another time.
    Unanswered(String),
    /// It must not be made.
    Forbidden(String),
}

/// Why nobody may be made to call `address`: it is this machine's own network's, a cloud's description of the machine, or nobody's.
fn never(address: IpAddr) -> Option<&'static str> {
    /// Of Alibaba and Oracle, and of Azure's own wire server.
    const METADATA_V4: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    /// Of Amazon (the machine's, and its pods'), Google and Oracle.
    const METADATA_V6: [[u16; 8]; 4] = [
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23],
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
        [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
    ];
    let inside = |high: u16, low: u16| never(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into());
    let (local, metadata, nobody) = match address.to_canonical() {
        IpAddr::V4(v4) => (
            v4.is_link_local(),
            METADATA_V4.contains(&v4),
            v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast(),
        ),
        IpAddr::V6(v6) => match v6.segments() {
            // Addresses of IPv4 behind translators, in tunnels, and as they were once written.
            [0x64, 0xff9b, .., high, low] => return inside(high, low),
            [0x2002, high, low, ..] => return inside(high, low),
            [0, 0, 0, 0, 0, 0, high, low] if (high, low) != (0, 1) => return inside(high, low),
            segments => {
                (v6.is_unicast_link_local(), METADATA_V6.contains(&segments), v6.is_unspecified() || v6.is_multicast())
            }
        },
    };
    match (local, metadata, nobody) {
        (true, ..) => Some("a link-local address"),
        (_, true, _) => Some("an address of a cloud's metadata"),
        (_, _, true) => Some("no host's address"),
        _ => None,
    }
}

/// The address that a URL names as one.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl Outgoing {
    /// A client for many calls: it asks for the addresses of a name itself, and takes none that is never called.
    ///
    /// # Errors
    /// The library cannot be set up.
    pub(crate) fn client(&self, connect: Duration) -> reqwest::Result<Client> {
        let client = Client::builder().no_proxy().redirect(Policy::none()).connect_timeout(connect);
        let client = client.dns_resolver(Arc::new(Looked)).tcp_nodelay(true);
        client.user_agent(concat!("stageline/", env!("CARGO_PKG_VERSION"))).build()
    }

    /// The URL of a `setting` or header of that name, if it may be called as far as it says.
    ///
    /// # Errors
    /// `InvalidRequest`, with what is wrong with it.
    pub fn check(&self, name: &str, text: &str) -> Result<Url, Fault> {
        let wrong = |words: &str| Err(Fault::invalid(format!("{name} {words}")));
        if text.len() > MAX_URL_BYTES {
            return wrong("is too long");
        }
        let Ok(url) = Url::parse(text) else { return wrong("is no URL: send one such as http://host/path") };
        if !["http", "https"].contains(&url.scheme()) {
            return wrong("must begin with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("must not hold a user or a password");
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return wrong("names no host");
        };
        if let Some(why) = literal(&url).and_then(never) {
            return wrong(&format!("names {why}, which is never called"));
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if !self.allow.is_empty() && !self.allow.iter().any(|allowed| allowed.takes(&host, port)) {
            return wrong("names a host that is not in callback_allow");
        }
        Ok(url)
    }

    /// Posts `body` to `url`, as that of the request `id`.
    pub async fn post(&self, url: &str, id: &str, (mut headers, body): (HeaderMap, bytes::Bytes), now: u64) -> Called {
        let url = match self.check("the callback's URL", url) {
            Ok(url) => url,
            Err(fault) => return Called::Forbidden(fault.message),
        };
        let addresses = match resolved(&url).await {
            Ok(addresses) => addresses,
            Err(called) => return called,
        };
        if let Some(signature) = self.signature(id, &body, now).and_then(|signature| signature.parse().ok()) {
            headers.insert(SIGNATURE, signature);
        }
        let client = Client::builder().no_proxy().redirect(Policy::none()).connect_timeout(CONNECT).timeout(WHOLE);
        // To the addresses that were looked at: asked again, a name might have become another.
        let client = client.resolve_to_addrs(url.host_str().unwrap_or_default(), &addresses);
        let client = client.user_agent(concat!("stageline/", env!("CARGO_PKG_VERSION"))).build();
        let unanswered = |error: reqwest::Error| Called::Unanswered(error.without_url().to_string());
        let answer = match client {
            Ok(client) => client.post(url).headers(headers).body(body).send().await,
            Err(error) => return unanswered(error),
        };
        match answer {
            // What it says beyond that is not read.
            Ok(answer) => {
                let again = again_in(answer.headers(), UNIX_EPOCH + Duration::from_millis(now));
                Called::Answered(answer.status().as_u16(), again)
            }
            Err(error) => unanswered(error),
        }
    }

    /// `t=SECONDS,v1=HEX`: HMAC-SHA-256 of "SECONDS.ID.BODY", where there is a secret.
    fn signature(&self, id: &str, body: &[u8], now: u64) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_ref()?).ok()?;
        let seconds = now / 1000;
        mac.update(format!("{seconds}.{id}.").as_bytes());
        mac.update(body);
        Some(format!("t={seconds},v1={}", hex(&mac.finalize().into_bytes())))
    }
}

/// In how long whoever answers with `headers` wants to be called again, if it says so: in seconds, or as a date.
pub(crate) fn again_in(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let of = |text: &str| httpdate::parse_http_date(text).ok();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = of(text)?;
    // By its own clock, where it tells the time: ours may be another.
    let now = headers.get(DATE).and_then(|date| of(date.to_str().ok()?)).unwrap_or(now);
    Some(then.duration_since(now).unwrap_or_default())
}

/// Looks addresses up, and gives none of a host that has one that is never called.
struct Looked;

impl Resolve for Looked {
    fn resolve(&self, name: DnsName) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            match found.iter().find_map(|address| never(address.ip())) {
                Some(why) => Err(format!("its host has {why}, which is never called").into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// The addresses of the URL's host, all of which may be called.
async fn resolved(url: &Url) -> Result<Vec<SocketAddr>, Called> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    if let Some(address) = literal(url) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Called::Unanswered(format!("its host is not found: {error}"))),
        Err(_) => return Err(Called::Unanswered("its host was not found in time".to_owned())),
    };
    match addresses.iter().find_map(|address| never(address.ip())) {
        Some(why) => Err(Called::Forbidden(format!("its host has {why}, which is never called"))),
        None if addresses.is_empty() => Err(Called::Unanswered("its host has no address".to_owned())),
        None => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(outgoing: &Outgoing, url: &str) -> Option<String> {
        outgoing.check("X-Callback-Url", url).err().map(|fault| fault.message)
    }

    #[test]
    fn what_is_never_called_is_known_however_it_is_written() {
        let any = Outgoing::default();
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:169.254.169.254]/",
            "http://2852039166/",
            "http://0xA9FEA9FE/",
            "http://0251.0376.0251.0376/",
            "http://[fe80::1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[fd00:ec2::254]/",
            "http://[64:ff9b:1::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::]/",
            "http://[::a9fe:a9fe]/",
            "http://[fd20:ce::254]/",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://0.1.2.3/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
        ] {
            assert!(refusal(&any, url).is_some_and(|words| words.contains("never called")), "{url}");
        }
        for url in ["http://127.0.0.1:8080/x", "https://example.com/", "http://10.0.0.1/", "http://[::1]:9/"] {
            assert_eq!(refusal(&any, url), None, "{url}");
        }
        for (url, words) in [
            ("nothing", "is no URL"),
            ("ftp://example.com/", "must begin with"),
            ("file:///etc/passwd", "must begin with"),
            ("http://a:b@example.com/", "a user or a password"),
            ("http://a@example.com/", "a user or a password"),
            (&format!("http://example.com/{}", "x".repeat(3000)), "too long"),
        ] {
            assert!(refusal(&any, url).is_some_and(|said| said.contains(words)), "{url}");
        }
    }

    #[test]
    fn a_list_names_all_that_may_be_called() {
        let allow = |host: &str, port| Allowed { host: host.to_owned(), port };
        let listed = Outgoing {
            allow: vec![allow("a.example", None), allow("b.example", Some(8080)), allow("*.c.example", None)],
            secret: None,
        };
        for url in ["http://a.example/", "https://A.Example:9/", "http://b.example:8080/x", "http://x.y.c.example/"] {
            assert_eq!(refusal(&listed, url), None, "{url}");
        }
        let others = [
            "http://c.example/",
            "http://b.example/",
            "http://xc.example/",
            "http://127.0.0.1/",
            "http://a.example.d/",
        ];
        for url in others {
            assert!(refusal(&listed, url).is_some_and(|words| words.contains("callback_allow")), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_of_what_is_never_called_is_not_called() {
        // A name that this machine knows without asking anybody.
        let url = Url::parse("http://localhost:1/").unwrap();
        assert!(resolved(&url).await.is_ok_and(|found| found.iter().all(|address| address.ip().is_loopback())));
    }

    #[test]
    fn who_is_called_says_when_to_call_again_in_seconds_or_by_a_date() {
        // 2015-10-21 07:28:00 by our clock.
        let now = UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        let asked = |again: &str, date: Option<&str>| {
            let date = date.map(|date| (DATE, date.parse().unwrap()));
            let headers = HeaderMap::from_iter([(RETRY_AFTER, again.parse().unwrap())].into_iter().chain(date));
            again_in(&headers, now).map(|time| time.as_secs())
        };
        assert_eq!((asked("120", None), asked("0", None)), (Some(120), Some(0)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:30:00 GMT", None), Some(120));
        assert_eq!(asked("Wed, 21 Oct 2015 07:20:00 GMT", None), Some(0));
        // Its clock is an hour behind.
        let date = Some("Wed, 21 Oct 2015 06:28:00 GMT");
        assert_eq!(asked("Wed, 21 Oct 2015 06:29:00 GMT", date), Some(60));
        for wrong in ["", "soon", "-1", "1.5", "Wed, 21 Oct"] {
            assert_eq!(asked(wrong, None), None, "{wrong}");
        }
        assert_eq!(again_in(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_signature_is_of_time_id_and_body() {
        let signed = |secret: &str, id: &str, body: &str, now| {
            let outgoing = Outgoing { allow: Vec::new(), secret: Some(secret.into()) };
            outgoing.signature(id, body.as_bytes(), now).unwrap()
        };
        // By `printf '%s' '1700000000.id.{}' | openssl dgst -sha256 -hmac secret`.
        let known = "t=1700000000,v1=1dca887a3ab4718e84cdc8d11c7296fee779d0406c172580c343d58367840b04";
        assert_eq!(signed("secret", "id", "{}", 1_700_000_000_999), known);
        let others = [("other", "id", "{}"), ("secret", "other", "{}"), ("secret", "id", "[]")];
        for (secret, id, body) in others {
            assert_ne!(signed(secret, id, body, 1_700_000_000_999), known);
        }
    }
}

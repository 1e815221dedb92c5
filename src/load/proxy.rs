//! Which way requests over HTTP go: straight to this machine, and elsewhere as the environment says (`http_proxy`, `NO_PROXY`).

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Proxy, Url};
use stageline_base::{Fault, with_causes};
use std::net::IpAddr;

/// A way to one server.
pub struct Way {
    /// The proxy between, by its address, which may name no user.
    pub proxy: Option<String>,
    builder: ClientBuilder,
}

impl Way {
    /// To the server that `url` names.
    ///
    /// # Errors
    /// `InvalidRequest` if `url` is none.
    pub fn to(url: &str) -> Result<Self, Fault> {
        Self::by(url, &Matcher::from_env())
    }

    fn by(url: &str, proxies: &Matcher) -> Result<Self, Fault> {
        let bad = |why: String| Fault::invalid(format!("{url} is no address of a server: {why}"));
        let parsed = Url::parse(url).map_err(|error| bad(error.to_string()))?;
        let uri: hyper::Uri =
            parsed.as_str().parse().map_err(|error: hyper::http::uri::InvalidUri| bad(error.to_string()))?;
        let direct = reqwest::Client::builder().no_proxy();
        let Some(found) = proxies.intercept(&uri).filter(|_| !is_here(&parsed)) else {
            return Ok(Self { proxy: None, builder: direct });
        };
        let shown = found.uri().to_string();
        let wrong = |error: reqwest::Error| Fault::invalid(format!("{shown} is no proxy: {}", with_causes(&error)));
        let mut proxy = Proxy::all(&shown).map_err(wrong)?;
        if let Some(credentials) = found.basic_auth() {
            proxy = proxy.custom_http_auth(credentials.clone());
        }
        Ok(Self { proxy: Some(shown), builder: direct.proxy(proxy) })
    }

    /// What makes clients that take this way.
    pub fn clients(self) -> ClientBuilder {
        self.builder
    }

    /// Words for a message about this way, if there is a proxy on it.
    pub fn words(&self) -> String {
        self.proxy.as_ref().map_or_else(String::new, |proxy| format!(", through the proxy {proxy} (see NO_PROXY)"))
    }
}

/// Whether `url` is of this machine, which no proxy is asked to reach.
fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']', '.']);
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_reached_straight_and_others_as_the_environment_says() {
        let proxies = Matcher::builder().http("http://me:secret@proxy.test:3128").no("near.test,10.0.0.0/8").build();
        for (url, want) in [
            ("http://127.0.0.1:8080", None),
            ("http://127.9.8.7", None),
            ("http://[::1]:8080/x", None),
            ("http://localhost:8080/metrics", None),
            ("http://LocalHost.:1", None),
            ("http://a.localhost", None),
            ("http://localhost.far.test", Some("http://proxy.test:3128/")),
            ("http://0.0.0.0:8080", None),
            ("http://near.test:1", None),
            ("http://10.1.2.3:1", None),
            ("http://far.test:1", Some("http://proxy.test:3128/")),
        ] {
            let way = Way::by(url, &proxies).unwrap();
            assert_eq!(way.proxy.as_deref(), want, "{url}");
            assert!(way.words().contains("proxy.test") == want.is_some() && !way.words().contains("secret"));
            way.clients().build().unwrap();
        }
        assert!(Way::by("http://", &proxies).is_err());
    }
}

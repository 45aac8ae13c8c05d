//! What the providers on AWS share: the keys that say where a service is and whose requests they are, and the SDK's settings that
//! follow from them; what became of a request without a good answer; and, with the feature `s3`, the way to objects, which a store and
//! an archive have. What else is asked of a service, and what its refusals mean, is each provider's.

pub mod cause;
pub mod failure;
#[cfg(feature = "s3")]
pub mod s3;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use evstore_api::{ConfigKey, Error, ErrorKind, KeyDefault, KeyKind, Result, Secrecy, Settings, StoreName};
use std::time::Duration;

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The region.
pub const REGION: ConfigKey =
    absent("region", Secrecy::Plain, "The region; without it the one that AWS's tools are set up for.");
/// Another endpoint.
pub const ENDPOINT: ConfigKey = absent(
    "endpoint",
    Secrecy::Plain,
    "`https://host` of another endpoint than the region's: one in the own network, or a server that speaks the same protocol. \
     `http://` only on this machine, or with `insecure`.",
);
/// Whether plain text may cross a network.
pub const INSECURE: ConfigKey = ConfigKey {
    name: "insecure",
    kind: KeyKind::Switch,
    default: KeyDefault::Value("false"),
    secrecy: Secrecy::Plain,
    sentence: "Whether `http://` may lead to another host, where everybody on the way can read and change what is sent.",
};
/// Public part of given credentials.
pub const ACCESS_KEY_ID: ConfigKey = absent(
    "access_key_id",
    Secrecy::Secret,
    "With `secret_access_key`, whose requests they are; without them whoever AWS's tools are set up for: environment, profile, \
     container, instance.",
);
/// Secret part of given credentials.
pub const SECRET_ACCESS_KEY: ConfigKey = absent("secret_access_key", Secrecy::Secret, "See `access_key_id`.");
/// For credentials that end.
pub const SESSION_TOKEN: ConfigKey =
    absent("session_token", Secrecy::Secret, "Beside the two, for credentials that end.");

const fn absent(name: &'static str, secrecy: Secrecy, sentence: &'static str) -> ConfigKey {
    ConfigKey { name, kind: KeyKind::Text, default: KeyDefault::Absent, secrecy, sentence }
}

/// Where a service is, and whose requests they are.
#[derive(Clone)]
pub struct Access {
    store: StoreName,
    region: Option<String>,
    endpoint: Option<String>,
    credentials: Option<Credentials>,
}

/// Without credentials.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("region", &self.region).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the keys of this crate.
    ///
    /// # Errors
    /// `Invalid` for an endpoint to which what is sent would cross a network in plain text, and for half of the credentials.
    pub fn new(settings: &Settings) -> Result<Self> {
        Ok(Self {
            store: settings.store().clone(),
            region: settings.text("region").map(str::to_owned),
            endpoint: endpoint(settings, "endpoint")?,
            credentials: credentials(settings)?,
        })
    }

    /// The same for another service, whose endpoint has a key of its own. Without it an engine that is not AWS's is taken to have both
    /// services, and AWS has an endpoint for each.
    ///
    /// # Errors
    /// `Invalid` for an endpoint to which what is sent would cross a network in plain text.
    pub fn of_another(&self, settings: &Settings, key: &str) -> Result<Self> {
        let own = self.endpoint.clone().filter(|_| !self.is_aws());
        Ok(Self { endpoint: endpoint(settings, key)?.or(own), ..self.clone() })
    }

    /// The endpoint, where one is given.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Whether it is AWS's own service that is spoken to, of which more is known than of a server that speaks alike.
    #[must_use]
    pub fn is_aws(&self) -> bool {
        self.endpoint.as_deref().is_none_or(|endpoint| {
            let host = host_of(endpoint);
            [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|end| host.ends_with(end))
        })
    }

    /// The SDK's settings. Nothing is sent, unless credentials have to be found. The SDK repeats nothing: only a caller's deadline says
    /// how long that makes sense, and only who wrote something knows whether it may.
    ///
    /// # Errors
    /// `Invalid` where there is no region.
    pub async fn load(&self, request_timeout: Duration) -> Result<SdkConfig> {
        let plain = self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let http = if plain {
            Builder::new().build_http()
        } else {
            Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
        };
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(request_timeout).build();
        // Pinned, so that an update changes no retries and no timeouts.
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(given) = &self.credentials {
            loader = loader.credentials_provider(given.clone());
        }
        let loaded = loader.load().await;
        if loaded.region().is_none() {
            return Err(Error::new(ErrorKind::Invalid, "no region is given, and AWS's tools are set up for none")
                .with("store", &self.store)
                .with("key", "region"));
        }
        Ok(loaded)
    }
}

fn credentials(settings: &Settings) -> Result<Option<Credentials>> {
    let text = |key| settings.text(key).filter(|text| !text.is_empty()).map(str::to_owned);
    match (text("access_key_id"), text("secret_access_key"), text("session_token")) {
        (None, None, None) => Ok(None),
        (Some(id), Some(secret), session_token) => {
            Ok(Some(Credentials::new(id, secret, session_token, None, "config")))
        }
        _ => Err(Error::new(ErrorKind::Invalid, "access_key_id and secret_access_key are given together")
            .with("store", settings.store())),
    }
}

/// The endpoint, if what is sent to it stays private.
fn endpoint(settings: &Settings, key: &str) -> Result<Option<String>> {
    let Some(given) = settings.text(key).filter(|given| !given.is_empty()) else { return Ok(None) };
    let refused =
        |message| Err(Error::new(ErrorKind::Invalid, message).with("store", settings.store()).with("key", key));
    let host = host_of(given);
    // A password in an address would be shown wherever the address is.
    if host.is_empty() || given.contains('@') {
        return refused("an endpoint is https://host or http://host, with a port where it has one, and nothing else");
    }
    let loopback =
        matches!(host, "localhost" | "::1") || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    match given.split_once("://") {
        Some(("https", _)) => Ok(Some(given.to_owned())),
        Some(("http", _)) if loopback || settings.switch("insecure").unwrap_or(false) => Ok(Some(given.to_owned())),
        Some(("http", _)) => refused(
            "http:// leads to another host, where everybody on the way can read what is sent; insecure = true allows it",
        ),
        _ => refused("an endpoint is https://host or http://host, with a port where it has one, and nothing else"),
    }
}

/// The host of an address, without brackets and port.
fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => rest.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[ConfigKey] = &[REGION, ENDPOINT, INSECURE, ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN];

    fn access(given: &[(&str, &str)]) -> Result<Access> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Access::new(&Settings::new(StoreName::new("a").unwrap(), KEYS, given)?)
    }

    #[test]
    fn a_network_is_not_crossed_in_plain_text() {
        for endpoint in ["http://localhost:8000", "http://127.0.0.1", "http://[::1]:1", "https://vpce.example"] {
            assert!(!access(&[("endpoint", endpoint)]).unwrap().is_aws());
        }
        assert!(access(&[("endpoint", "https://s3.eu-west-1.amazonaws.com")]).unwrap().is_aws());
        let bad = [
            "http://10.0.0.1",
            "http://localhost.example",
            "http://127.example",
            "ftp://localhost",
            "localhost",
            "http://",
            "https://a:b@c",
        ];
        for endpoint in bad {
            assert_eq!(access(&[("endpoint", endpoint)]).unwrap_err().kind(), ErrorKind::Invalid, "{endpoint}");
        }
        access(&[("endpoint", "http://10.0.0.1"), ("insecure", "true")]).unwrap();
    }

    #[test]
    fn another_service_of_the_same_engine_is_found_beside_it() {
        const QUEUE: ConfigKey = ConfigKey { name: "queue_endpoint", ..ENDPOINT };
        let another = |given: &[(&str, &str)]| {
            let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let settings = Settings::new(StoreName::new("a").unwrap(), &[REGION, ENDPOINT, INSECURE, QUEUE], given)?;
            Access::new(&settings)?.of_another(&settings, "queue_endpoint")
        };
        let local = ("endpoint", "http://localhost:1");
        assert_eq!(another(&[local]).unwrap().endpoint(), Some("http://localhost:1"));
        assert_eq!(another(&[local, ("queue_endpoint", "http://[::1]:2")]).unwrap().endpoint(), Some("http://[::1]:2"));
        assert_eq!(another(&[("endpoint", "https://dynamodb.eu-west-1.amazonaws.com")]).unwrap().endpoint(), None);
        let error = another(&[("queue_endpoint", "http://10.0.0.1")]).unwrap_err();
        assert!(error.context().contains(&("key", "queue_endpoint".into())), "{error:?}");
    }

    #[test]
    fn credentials_are_whole_and_never_shown() {
        assert_eq!(access(&[("access_key_id", "alone")]).unwrap_err().kind(), ErrorKind::Invalid);
        let access = access(&[("access_key_id", "AKIA"), ("secret_access_key", "hunter2")]).unwrap();
        assert!(!format!("{access:?}").contains("hunter2"));
    }
}

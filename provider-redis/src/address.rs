//! Where servers are, and what may be said to them on the way: across a network nothing goes unencrypted unless that was said.

use crate::config::Config;
use evstore_api::{Error, ErrorKind, Result};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use std::net::IpAddr;

/// What a URL says. It holds a password, so that an error does not repeat it.
///
/// # Errors
/// `Invalid`.
pub fn info(url: &str) -> Result<ConnectionInfo> {
    url.into_connection_info().map_err(|_| Error::new(ErrorKind::Invalid, "the server's url is not one"))
}

/// The same way of connecting to another node. An empty host means the one that said so.
///
/// # Errors
/// `Unavailable` for what is no address.
pub fn other(info: ConnectionInfo, node: &str) -> Result<ConnectionInfo> {
    let refused =
        || Error::new(ErrorKind::Unavailable, "the server names a node that is no address").with("node", node);
    let (host, port) = node.rsplit_once(':').ok_or_else(refused)?;
    let port: u16 = port.parse().map_err(|_| refused())?;
    let host_of = |known: &str| if host.is_empty() { known.to_owned() } else { host.to_owned() };
    let moved = match info.addr() {
        ConnectionAddr::Tcp(known, _) => ConnectionAddr::Tcp(host_of(known), port),
        ConnectionAddr::TcpTls { host: known, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host_of(known), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => return Err(refused()),
    };
    Ok(info.set_addr(moved))
}

/// Refuses what others can read or change on the way, unless that was said to be wanted, and TLS with just anybody.
///
/// # Errors
/// `Invalid`, saying what to do.
pub fn check_private(info: &ConnectionInfo, config: &Config) -> Result<()> {
    let refused = |message, host: &String| {
        Err(Error::new(ErrorKind::Invalid, message).with("store", &config.own).with("host", host))
    };
    match info.addr() {
        ConnectionAddr::Tcp(host, _) if !config.insecure && !is_loopback(host) => refused(
            "redis:// to another host can be read and changed on the way; use rediss://, or set insecure = true",
            host,
        ),
        ConnectionAddr::TcpTls { host, insecure: true, .. } => {
            refused("rediss:// with #insecure takes any certificate; name its authority with ca_file instead", host)
        }
        _ => Ok(()),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_a_loopback() {
        for here in ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"] {
            assert!(is_loopback(here), "{here}");
        }
        for away in ["10.0.0.1", "redis.example", "localhost.example", "0.0.0.0", "128.0.0.1", ""] {
            assert!(!is_loopback(away), "{away}");
        }
    }

    #[test]
    fn a_node_is_reached_the_way_of_the_one_that_named_it() {
        let tls = other(info("rediss://user:word@one.example:1").unwrap(), "two.example:2").unwrap();
        assert!(
            matches!(tls.addr(), ConnectionAddr::TcpTls { host, port: 2, insecure: false, .. } if host == "two.example")
        );
        let same = other(info("redis://one.example:1").unwrap(), ":3").unwrap();
        assert_eq!(same.addr(), &ConnectionAddr::Tcp("one.example".to_owned(), 3));
        assert!(other(same, "nonsense").is_err());
    }
}

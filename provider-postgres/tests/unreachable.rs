//! No server at all: an error that says so, not that the pool was busy. Takes as long as a connection may take.

use evstore_api::*;

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // A port that was free a moment ago, and that nobody listens at.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = evstore_postgres::provider();
    let given = [("url".to_owned(), format!("postgres://evstore:hunter2@127.0.0.1:{port}/evstore"))];
    let settings = Settings::new(StoreName::new("main").unwrap(), provider.keys, given).unwrap();
    let error = provider.opener.open(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

//! What a client sends, field by field: path, cursor, preferences, ids, record lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = exchange::Cursor::decode(data, "items");
    let _ = exchange::CorrelationId::parse(data);
    if let (Ok(token), Some(signer)) = (std::str::from_utf8(data), exchange::Signer::new(&[b"a key of 16 bytes".to_vec()])) {
        assert_eq!(signer.verify(token, "items", ""), None, "nobody signed this");
    }
    let _ = telemetry::TraceContext::take_or_make(Some(data));
    let _ = telemetry::RequestId::take_or_make(Some(data));
    let _ = gateway::RecordLine::parse(data).and_then(|line| line.into_record("items"));
    if let Ok(value) = http::HeaderValue::from_bytes(data) {
        let headers = |name| http::HeaderMap::from_iter([(http::HeaderName::from_static(name), value.clone())]);
        let _ = entrypoint::Preferences::parse(&headers("prefer"));
        for name in ["if-match", "if-none-match", "if-unmodified-since"] {
            let _ = entrypoint::Required::parse(&headers(name)).map(|r| r.map(|required| required.is_met(Some(("\"0-0-0\"", 0)))));
        }
    }
    let routes = ["/items", "/items/{id}", "/items/{id};cid={token}", "/files/{*rest}"].map(|path| (edge::RouteMatch { path: path.into(), ..Default::default() }, ()));
    let router = edge::Router::build(routes.into()).expect("valid routes");
    if let Ok(request) = http::Request::builder().uri(data).body(()) {
        let _ = router.route(&request.into_parts().0);
    }
});

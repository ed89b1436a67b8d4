//! What a client sends, field by field: path, cursor, preferences, ids, record lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = exchange::Cursor::decode(data, "items");
    let _ = telemetry::TraceContext::take_or_make(Some(data));
    let _ = telemetry::RequestId::take_or_make(Some(data));
    let _ = gateway::RecordLine::parse(data).and_then(|line| line.into_record("items"));
    if let Ok(value) = http::HeaderValue::from_bytes(data) {
        let _ = entrypoint::Preferences::parse(&http::HeaderMap::from_iter([(http::HeaderName::from_static("prefer"), value)]));
    }
    let routes = ["/items", "/items/{id}", "/files/{*rest}"].map(|path| (edge::RouteMatch { path: path.into(), ..Default::default() }, ()));
    let router = edge::Router::build(routes.into()).expect("valid routes");
    if let Ok(request) = http::Request::builder().uri(data).body(()) {
        let _ = router.route(&request.into_parts().0);
    }
});

//! One trace follows a reading from the MQTT message at the agent to the append at the gateway: the real programs send it to a collector
//! that speaks the real protocol.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use depin_tests::{eventually, start_fleets, tools::Tools};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use xtask::demo::networks;

const LIMIT: Duration = Duration::from_secs(120);

/// Spans by the service that sent them.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for group in request.into_inner().resource_spans {
            let attributes = group.resource.unwrap().attributes;
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap().value;
            let Some(AnyValue { value: Some(Value::StringValue(service)) }) = name else { panic!("no service.name") };
            let sent = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(sent.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(self.clone());
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        url
    }

    /// A trace whose spans are these, each the child of the one before.
    fn has(&self, way: &[(&str, &str)]) -> bool {
        let spans = self.0.lock().unwrap();
        let mut heads: BTreeMap<(&[u8], &[u8]), usize> = BTreeMap::new();
        for (step, (service, name)) in way.iter().enumerate() {
            let of_step: Vec<&Span> = spans
                .iter()
                .filter(|(sender, span)| sender == service && span.name == *name)
                .map(|(_, span)| span)
                .collect();
            for span in of_step {
                let parent = (&span.trace_id[..], &span.parent_span_id[..]);
                let continues = match step.checked_sub(1) {
                    None => span.parent_span_id.is_empty(),
                    before => heads.get(&parent).copied() == before,
                };
                if continues {
                    heads.insert((&span.trace_id, &span.span_id), step);
                }
            }
        }
        heads.values().any(|step| step + 1 == way.len())
    }
}

#[test]
fn a_message_and_its_append_are_one_trace() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let collector = Collector::default();
    let dir = tempfile::tempdir().unwrap();
    let url = runtime.block_on(collector.start());
    let (cluster, mut stack) = start_fleets(dir.path(), Some(url)).unwrap();
    networks::apply_devices(&cluster).unwrap();
    stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false).unwrap();
    let listener = stack.agents[0].mqtt.clone();
    stack.start_simulator("meters", &listener, &["--network", "meters", "--devices", "2"]).unwrap();
    let way = [
        ("depin-agent", "message"),
        ("depin-agent", "seal"),
        ("depin-gateway", "judge proof"),
        ("depin-gateway", "append"),
    ];
    eventually("a trace from the message to the append", LIMIT, || {
        stack.check_alive().unwrap();
        collector.has(&way)
    });
    let foreign = collector.0.lock().unwrap().iter().flat_map(|(_, span)| &span.attributes).any(|attribute| {
        ["device", "serial", "owner", "payload"].iter().any(|private| attribute.key.contains(private))
    });
    assert!(!foreign, "a span tells whose reading it is");
    stack.stop().unwrap();
}

//! A broker with its journal in a directory of its own, and the handlers on top of it.

use std::sync::Arc;

use axum::{body::Body, extract::Request};
use bruit_gossip::Identity;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::runtime::Handle;

use super::{App, HttpState, Ports, app, lookup_app};
use crate::{
    Config,
    broker::{Broker, Opening},
    env::real,
    exit::{self, Exit},
    mesh::{self, MeshHandle},
    relay::Relays,
};

/// A node without sockets.
pub(super) struct Fixture {
    pub(super) app: App,
    /// nsqlookupd's API alone.
    pub(super) lookup: App,
    pub(super) broker: Arc<Broker>,
    pub(super) mesh: MeshHandle,
    pub(super) exit: Exit,
    _dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = real::env(Handle::current(), Handle::current());
        let mut config = Config::default();
        config.journal.min_free_bytes = 0;
        config.limits.max_msg_size = 10;
        let opening = Opening {
            latency: config.latency.clone(),
            env: env.clone(),
            dir: dir.path().to_owned(),
            node: 1,
            limits: config.limits.clone(),
            journal: config.journal.clone(),
        };
        let (exit, exiting) = exit::channel();
        let (broker, _, _) = Broker::open(opening, exiting.clone()).await.unwrap();
        let ports = Ports { tcp: 4150, http: 4151 };
        config.mesh.gossip_address = None;
        config.data_path = dir.path().to_owned();
        config.broadcast_addresses = vec!["127.0.0.1".to_owned()];
        config.hostname = "vm".to_owned();
        let joining = mesh::Opening {
            config: &config,
            env: &env,
            identity: Identity::first(1),
            broker: &broker,
            tcp: ([127, 0, 0, 1], ports.tcp).into(),
            http: Some(([127, 0, 0, 1], ports.http).into()),
        };
        let mesh = mesh::start(joining, &exiting).await.unwrap().handle;
        config.log.set = Arc::new(|_| true);
        let relays = Relays::start(&config, &env, &broker, &mesh, exiting);
        let state = HttpState::new(
            Arc::clone(&broker),
            mesh.clone(),
            relays,
            Arc::default(),
            Arc::new(config),
            env,
            ports,
            None,
        );
        Self { app: app(state.clone()), lookup: lookup_app(state), broker, mesh, exit, _dir: dir }
    }

    pub(super) async fn post(&self, target: &str, body: &str) -> (u16, String) {
        ask(&self.app, "POST", target, body).await
    }

    pub(super) async fn read(&self, target: &str) -> (u16, String) {
        ask(&self.app, "GET", target, "").await
    }

    /// The same of the port with nsqlookupd's API.
    pub(super) async fn lookup_post(&self, target: &str) -> (u16, String) {
        ask(&self.lookup, "POST", target, "").await
    }

    pub(super) async fn lookup_read(&self, target: &str) -> (u16, String) {
        ask(&self.lookup, "GET", target, "").await
    }

    pub(super) async fn topics(&self, query: &str) -> Value {
        let (status, body) = self.read(&format!("/stats?format=json{query}")).await;
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&body).unwrap()["topics"].clone()
    }
}

pub(super) fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

pub(super) fn error(status: u16, code: &str) -> (u16, String) {
    (status, format!(r#"{{"message":"{code}"}}"#))
}

async fn ask(app: &App, method: &str, target: &str, body: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(target).body(Body::from(body.to_owned()));
    let response = app.answer(request.unwrap()).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

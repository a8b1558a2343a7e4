//! A program that counts what it is asked, and answers when it is let.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use super::apps::{Body, app, text};

pub struct Counting {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    pub gate: Arc<Semaphore>,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Counting {
    /// The n-th request, from 1 on, is answered by `answer`.
    pub async fn new<A>(answer: A) -> Counting
    where
        A: Fn(usize, Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
    {
        let counting = Counting::held(answer).await;
        counting.gate.add_permits(Semaphore::MAX_PERMITS / 2);
        counting
    }

    /// The same, but each request takes a permit of the gate first.
    pub async fn held<A>(answer: A) -> Counting
    where
        A: Fn(usize, Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
    {
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let heads: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let answer = Arc::new(answer);
        let its = (Arc::clone(&asked), Arc::clone(&gate), Arc::clone(&heads));
        let address = app(move |request| {
            let (asked, gate, heads) = its.clone();
            let answer = Arc::clone(&answer);
            async move {
                heads.lock().unwrap().push(request.headers().clone());
                let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                answer(number, request)
            }
        })
        .await;
        Counting {
            address,
            asked,
            gate,
            heads,
        }
    }

    /// Answers every request with its number and these fields.
    pub async fn with(fields: &'static [(&'static str, &'static str)]) -> Counting {
        Counting::new(move |number, _| numbered(number, fields)).await
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The fields of the n-th request, from 1 on.
    pub fn head(&self, number: usize) -> HeaderMap {
        self.heads.lock().unwrap()[number - 1].clone()
    }
}

pub fn numbered(number: usize, fields: &[(&'static str, &'static str)]) -> Response<Body> {
    with_fields(text(format!("answer {number}")), fields)
}

pub fn with_fields(
    mut response: Response<Body>,
    fields: &[(&'static str, &'static str)],
) -> Response<Body> {
    for (name, value) in fields {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

pub fn status(status: u16, fields: &[(&'static str, &'static str)]) -> Response<Body> {
    let mut response = with_fields(text(""), fields);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

//! A wire between two meshes that can be cut, as when a machine loses its power.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Passes datagrams between one node and `to`, unless it is cut.
pub struct Relay {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Relay {
    pub async fn before(to: SocketAddr) -> Relay {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let relay = Relay {
            address: front.local_addr().unwrap(),
            cut: Arc::new(AtomicBool::new(false)),
        };
        let (asker, answered) = watch::channel(None);
        let (forth, cut) = ((front.clone(), back.clone()), relay.cut.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((n, from)) = forth.0.recv_from(&mut buffer).await {
                asker.send_replace(Some(from));
                if !cut.load(Ordering::SeqCst) {
                    let _ = forth.1.send_to(&buffer[..n], to).await;
                }
            }
        });
        let cut = relay.cut.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((n, _)) = back.recv_from(&mut buffer).await {
                let asker: Option<SocketAddr> = *answered.borrow();
                if let (Some(asker), false) = (asker, cut.load(Ordering::SeqCst)) {
                    let _ = front.send_to(&buffer[..n], asker).await;
                }
            }
        });
        relay
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

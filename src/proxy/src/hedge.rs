//! A second copy of a slow request, to another instance; the first answer wins. Only of a request that changes nothing and is
//! all there, and only as far as the deployment's retry budget reaches, so that a slow deployment is not asked twice as much.

use std::pin::pin;
use std::time::Instant;

use nebula_domain::InstanceId;
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::instance::Heard;
use nebula_domain::traffic::retry::Hedge;
use tokio::io::{AsyncRead, AsyncWrite, duplex};
use tokio::time::sleep;

use crate::choice::Chosen;
use crate::exchange::{Link, Request, gone};
use crate::forward::{Asked, Attempt, Trip, is_error};
use crate::h1::{Timer, Wire};
use crate::pages::Problem;
use crate::service::Service;

/// Who won.
enum Won {
    First(Asked),
    Second(Asked),
}

impl Won {
    /// Its instance could not do what it was asked.
    fn is_error(&self) -> bool {
        let (Won::First(asked) | Won::Second(asked)) = self;
        is_error(asked.upstream.head.status)
    }
}

/// Asks `first`, and when it has not answered after a while another endpoint as well. Whoever has answered first, and the second that
/// was asked. Interim responses of neither reach the client.
pub(crate) async fn race<'s, T>(
    trip: &Trip<'s>,
    hedge: Hedge,
    service: &'s Service,
    first: Chosen<'s>,
    until: Nanos,
    request: &Request<'s>,
    link: &mut Link<'_, T>,
) -> (Result<(Asked, Chosen<'s>), Attempt>, Option<InstanceId>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut second = None;
    let won = {
        let mut client = pin!(gone(link.wire));
        let mut one = pin!(alone(trip, service, &first, until, request));
        let early = tokio::select! {
            biased;
            asked = &mut one => Some(asked),
            () = &mut client => Some(Err(Attempt::Failed(Problem::ClientGone))),
            () = sleep(hedge.after) => None,
        };
        match early {
            Some(asked) => asked.map(Won::First),
            None => {
                second = trip.second(service, request, &first);
                let two = async {
                    match &second {
                        Some(second) => alone(trip, service, second, until, request).await,
                        None => std::future::pending().await,
                    }
                };
                let mut two = pin!(two);
                let (mut first_ended, mut second_ended) = (false, second.is_none());
                // An error that came first, while the other may still do better.
                let mut poor = None;
                loop {
                    let won = tokio::select! {
                        biased;
                        asked = &mut one, if !first_ended => {
                            first_ended = true;
                            asked.map(Won::First)
                        }
                        asked = &mut two, if !second_ended => {
                            second_ended = true;
                            asked.map(Won::Second)
                        }
                        () = &mut client => break Err(Attempt::Failed(Problem::ClientGone)),
                    };
                    let good = won.as_ref().is_ok_and(|won| !won.is_error());
                    if good {
                        break won;
                    }
                    if first_ended && second_ended {
                        break poor.map_or(won, Ok);
                    }
                    poor = won.ok();
                }
            }
        }
    };
    let asked_too = second.as_ref().map(|second| second.endpoint.instance);
    let answered = match (won, second) {
        (Ok(Won::First(asked)), _) => Ok((asked, first)),
        (Ok(Won::Second(asked)), Some(second)) => {
            let unheard_max = hedge.unheard_max(&trip.policy.deadlines);
            first.heard(Heard::Outpaced { unheard_max });
            Ok((asked, second))
        }
        // Nobody was asked who could have won so.
        (Ok(Won::Second(_)), None) => Err(Attempt::Failed(Problem::ClientGone)),
        (Err(attempt), _) => Err(attempt),
    };
    (answered, asked_too)
}

/// Asks an endpoint without the client, which two cannot have at the same time: there is nothing of it that they would need.
async fn alone(
    trip: &Trip<'_>,
    service: &Service,
    chosen: &Chosen<'_>,
    until: Nanos,
    request: &Request<'_>,
) -> Result<Asked, Attempt> {
    let request = &Request {
        since: Instant::now(),
        ..*request
    };
    let (nobody, _other_end) = duplex(1);
    let mut link = Link {
        wire: &mut Wire::new(nobody),
        timer: &mut Timer::default(),
        continued: false,
        body_begun: &mut false,
        cut_off: &mut false,
    };
    trip.ask(service, chosen, until, request, &mut link).await
}

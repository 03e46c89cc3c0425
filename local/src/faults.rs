//! `--fault`: faults that `serve` injects on purpose.
//!
//! **Invariant**: the same seed gives the same faults for the same order of requests and invocations.

use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use scanhook_emulator::faults::{Draws, Faults};
use scanhook_worker::clock::Clock;
use scanhook_worker::mapping::HandlerError;
use serde_json::Value;

/// An invocation that fails does so at most this long after its start.
const LATEST_STRIKE: Duration = Duration::from_secs(1);

/// One entry of `--fault`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    SqsThrottle(f64),
    SqsLatency(Duration),
    ScannerCrash(f64),
    ScannerHang(f64),
}

/// Why an entry of `--fault` is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseFaultError {
    #[error("a fault is written NAME=VALUE, such as sqs-throttle=10%")]
    Form,
    #[error(
        "there is no fault {0}; there are sqs-throttle, sqs-latency, scanner-crash and scanner-hang"
    )]
    Unknown(String),
    #[error("{0} is a share of 0% to 100%, such as {0}=10%")]
    Share(&'static str),
    #[error("{0} is a time of up to a minute with its unit, such as {0}=200ms")]
    Time(&'static str),
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("scanner-crash and scanner-hang are more than 100% together")]
    Sum,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::SqsThrottle(_) => "sqs-throttle",
            Self::SqsLatency(_) => "sqs-latency",
            Self::ScannerCrash(_) => "scanner-crash",
            Self::ScannerHang(_) => "scanner-hang",
        }
    }
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let (name, value) = text.trim().split_once('=').ok_or(ParseFaultError::Form)?;
        match name {
            "sqs-throttle" => Ok(Self::SqsThrottle(share("sqs-throttle", value)?)),
            "sqs-latency" => Ok(Self::SqsLatency(time("sqs-latency", value)?)),
            "scanner-crash" => Ok(Self::ScannerCrash(share("scanner-crash", value)?)),
            "scanner-hang" => Ok(Self::ScannerHang(share("scanner-hang", value)?)),
            _ => Err(ParseFaultError::Unknown(name.to_owned())),
        }
    }
}

fn share(name: &'static str, value: &str) -> Result<f64, ParseFaultError> {
    let percent = value.strip_suffix('%').and_then(|it| it.parse().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(ParseFaultError::Share(name)),
    }
}

fn time(name: &'static str, value: &str) -> Result<Duration, ParseFaultError> {
    let time = value.parse::<SignedDuration>().ok();
    time.and_then(|it| Duration::try_from(it).ok())
        .filter(|it| *it <= Duration::from_mins(1))
        .ok_or(ParseFaultError::Time(name))
}

/// All faults to inject.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    throttle: f64,
    latency: Duration,
    crash: f64,
    hang: f64,
    seed: u64,
}

impl Plan {
    /// Combines the entries of `--fault`.
    pub(crate) fn new(faults: &[Fault], seed: u64) -> Result<Self, ParseFaultError> {
        let mut plan = Self {
            seed,
            ..Self::default()
        };
        let mut names = Vec::new();
        for &fault in faults {
            if names.contains(&fault.name()) {
                return Err(ParseFaultError::Twice(fault.name()));
            }
            names.push(fault.name());
            match fault {
                Fault::SqsThrottle(share) => plan.throttle = share,
                Fault::SqsLatency(time) => plan.latency = time,
                Fault::ScannerCrash(share) => plan.crash = share,
                Fault::ScannerHang(share) => plan.hang = share,
            }
        }
        if plan.crash + plan.hang > 1.0 + 1e-9 {
            return Err(ParseFaultError::Sum);
        }
        Ok(plan)
    }

    /// Whether requests to the queue's endpoint are to fail or wait.
    pub(crate) fn strikes_queue(&self) -> bool {
        self.throttle > 0.0 || !self.latency.is_zero()
    }

    /// Whether invocations of the scanner are to fail.
    pub(crate) fn strikes_scanner(&self) -> bool {
        self.crash + self.hang > 0.0
    }

    pub(crate) fn queue(&self) -> Faults {
        Faults::new(self.throttle, self.latency, self.seed)
    }

    pub(crate) fn scanner(&self) -> Strikes {
        Strikes {
            crash: self.crash,
            hang: self.hang,
            // A different sequence from the queue's.
            draws: Draws::new(!self.seed),
        }
    }
}

/// Decides for each invocation in turn whether it fails.
#[derive(Debug)]
pub(crate) struct Strikes {
    crash: f64,
    hang: f64,
    draws: Draws,
}

/// How an invocation fails, and how long after its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Strike {
    kind: Kind,
    after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Crash,
    Hang,
}

/// The error of a crashed invocation.
#[derive(Debug, thiserror::Error)]
#[error("the function crashed, as --fault scanner-crash asks")]
struct Crashed;

impl Strikes {
    /// The fault of the next invocation, if it gets one.
    pub(crate) fn next(&self) -> Option<Strike> {
        let (drawn, moment) = (self.draws.draw(), self.draws.draw());
        let kind = if drawn < self.crash {
            Kind::Crash
        } else if drawn < self.crash + self.hang {
            Kind::Hang
        } else {
            return None;
        };
        Some(Strike {
            kind,
            after: LATEST_STRIKE.mul_f64(moment),
        })
    }
}

impl Strike {
    /// Runs the handler until the fault. What the handler did by then stays done; its answer is lost.
    pub(crate) async fn hit(
        self,
        handler: impl Future<Output = Result<Value, HandlerError>> + Send,
    ) -> Result<Value, HandlerError> {
        tokio::select! {
            _ = handler => {}
            () = Clock::System.sleep(self.after) => {}
        }
        match self.kind {
            Kind::Crash => Err(Crashed.into()),
            Kind::Hang => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn plan(text: &str, seed: u64) -> Result<Plan, String> {
        let faults: Result<Vec<Fault>, _> = text.split(',').map(str::parse).collect();
        faults
            .and_then(|it| Plan::new(&it, seed))
            .map_err(|err| err.to_string())
    }

    #[test]
    fn faults_are_parsed() {
        let read = plan(
            "sqs-throttle=10%,sqs-latency=200ms,scanner-crash=5%,scanner-hang=0.5%",
            7,
        );
        let expected = Plan {
            throttle: 0.1,
            latency: Duration::from_millis(200),
            crash: 0.05,
            hang: 0.005,
            seed: 7,
        };
        assert_eq!(read, Ok(expected));
        assert_eq!(
            plan("sqs-latency=2s", 0).unwrap().latency,
            Duration::from_secs(2)
        );
        assert_eq!(Plan::new(&[], 0), Ok(Plan::default()));
    }

    #[test]
    fn an_invalid_fault_is_refused_with_the_valid_form() {
        let share = "sqs-throttle is a share of 0% to 100%, such as sqs-throttle=10%";
        let time =
            "sqs-latency is a time of up to a minute with its unit, such as sqs-latency=200ms";
        let form = "a fault is written NAME=VALUE, such as sqs-throttle=10%";
        for (text, words) in [
            ("", form),
            ("sqs-throttle", form),
            ("sqs-throttle=10%,", form),
            (
                "disk-full=1%",
                "there is no fault disk-full; there are sqs-throttle, sqs-latency, scanner-crash and scanner-hang",
            ),
            ("sqs-throttle=", share),
            ("sqs-throttle=10", share),
            ("sqs-throttle=0.1", share),
            ("sqs-throttle=-1%", share),
            ("sqs-throttle=101%", share),
            ("sqs-throttle=NaN%", share),
            ("sqs-latency=200", time),
            ("sqs-latency=-1s", time),
            ("sqs-latency=61s", time),
            ("sqs-latency=10%", time),
            (
                "scanner-crash=1%,scanner-crash=2%",
                "scanner-crash is given twice",
            ),
            (
                "scanner-crash=60%,scanner-hang=41%",
                "scanner-crash and scanner-hang are more than 100% together",
            ),
        ] {
            assert_eq!(plan(text, 0), Err(words.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_seed_selects_the_invocations_that_fail() {
        let strikes = |seed| {
            let strikes = plan("scanner-crash=20%,scanner-hang=10%", seed)
                .unwrap()
                .scanner();
            (0..1000).map(|_| strikes.next()).collect::<Vec<_>>()
        };
        let count = |kind| {
            strikes(1)
                .iter()
                .flatten()
                .filter(|it| it.kind == kind)
                .count()
        };
        assert_eq!(strikes(1), strikes(1));
        assert_ne!(strikes(1), strikes(2));
        assert!(
            (150..250).contains(&count(Kind::Crash)),
            "{}",
            count(Kind::Crash)
        );
        assert!(
            (70..130).contains(&count(Kind::Hang)),
            "{}",
            count(Kind::Hang)
        );
    }

    #[tokio::test]
    async fn a_crash_loses_the_answer() {
        let [certain, never] = [("scanner-crash=100%"), ("scanner-crash=0%")]
            .map(|it| plan(it, 1).unwrap().scanner().next());
        assert_eq!(never, None);
        let answered = certain.unwrap().hit(async { Ok(Value::Null) }).await;
        assert_eq!(
            answered.unwrap_err().to_string(),
            "the function crashed, as --fault scanner-crash asks"
        );
    }

    #[tokio::test]
    async fn a_hang_never_answers() {
        let strike = plan("scanner-hang=100%", 1).unwrap().scanner().next();
        let answered = strike.unwrap().hit(async { Ok(Value::Null) });
        assert!(answered.now_or_never().is_none());
    }
}

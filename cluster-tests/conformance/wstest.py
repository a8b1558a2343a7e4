"""Runs Autobahn's test suite, which is for Python 2.7: `python2.7 wstest.py FOLDER SPEC`.

FOLDER is where `pip install --target` put `autobahntestsuite`. Every host name is taken for this machine.
"""

import site
import sys

site.addsitedir(sys.argv[1])

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import succeed  # noqa: E402
from twisted.internet.interfaces import IResolverSimple  # noqa: E402
from zope.interface import implementer  # noqa: E402


@implementer(IResolverSimple)
class Here(object):
    def getHostByName(self, name, timeout=()):
        return succeed("127.0.0.1")


reactor.installResolver(Here())
sys.argv = ["wstest", "-m", "fuzzingclient", "-s", sys.argv[2]]

from autobahntestsuite.wstest import run  # noqa: E402

run()

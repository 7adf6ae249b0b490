"""Any layer tuner of the library PEFT, as a method."""

from dpft.methods.peft.method import Peft

METHOD = Peft

# Snap packages put their commands here.
case ":$PATH:" in
*:/snap/bin:*) ;;
*) PATH=$PATH:/snap/bin ;;
esac
